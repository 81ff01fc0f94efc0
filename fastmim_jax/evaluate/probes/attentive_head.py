"""The attentive probe: learned queries attend to the frozen tokens, a linear layer gives the class.

For features whose mean over the tokens says little, as with masked image modeling. Source: AIM
(El-Nouby et al. 2024), with every token standardised on its own in place of its batch norm.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fastmim_jax.errors import UserError

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
WEIGHT_DECAY = 0.1


class AttentiveHead(nn.Module):
    """One cross-attention without biases, with one learned query per head, and a linear layer.

    Attributes:
      classes: number of classes.
      heads: number of heads; D must be a multiple of it.
    """

    classes: int
    heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, N, D) frozen tokens -> logits (B, classes) float32."""
        tokens = tokens.astype(jnp.float32)
        tokens = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(tokens)
        width, size = tokens.shape[-1], tokens.shape[-1] // self.heads
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        query = self.param("query", nn.initializers.normal(0.02), (self.heads, size))
        key = self.param("key", init, (width, self.heads, size))
        value = self.param("value", init, (width, self.heads, size))
        # The queries are the same for all tokens: projecting queries and attended tokens, not every token,
        # gives the same at a fraction of the work and memory.
        projected = jnp.einsum("he,dhe->hd", query, key) / size**0.5
        attention = jax.nn.softmax(jnp.einsum("hd,bnd->bhn", projected, tokens))
        attended = jnp.einsum("bhn,bnd->bhd", attention, tokens)
        pooled = jnp.einsum("bhd,dhe->bhe", attended, value).reshape(len(tokens), width)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), name="head")(pooled)


class HeadsState(NamedTuple):
    """step: (), updates done. params, opt_state: trees whose leaves have R as their first axis."""

    step: jax.Array
    params: Any
    opt_state: Any


@dataclass(frozen=True)
class AttentiveHeads:
    """One AttentiveHead for every learning rate; all see the same batches and start with the same values.

    AdamW with weight decay on all but the biases, and half a cosine from the rate down to 0. The caller
    streams the tokens, and chooses the rate on images that are neither trained on nor tested on. A label
    of -1 marks a row of padding, which is ignored.

    Attributes:
      classes: number of classes.
      width: D, of the tokens.
      heads: number of heads; D must be a multiple of it.
      rates: R learning rates.
      steps: total number of updates.
      seed: of the initial values.

    Raises:
      UserError: heads that do not divide the width.
    """

    classes: int
    width: int
    heads: int = 12
    rates: tuple[float, ...] = RATES
    steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise UserError(
                f"{self.heads} heads cannot share the {self.width} channels of a token: give a number of "
                f"heads that divides {self.width}"
            )

    def init(self) -> HeadsState:
        """Return the state before the first update."""
        params = self._head.init(jax.random.key(self.seed), jnp.zeros((1, 1, self.width)))["params"]
        params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(self.rates), 0), params)
        return HeadsState(jnp.zeros((), jnp.int32), params, jax.vmap(_optimizer(0.0).init)(params))

    @partial(jax.jit, static_argnums=0)
    def update(self, state: HeadsState, tokens: jax.Array, labels: jax.Array) -> HeadsState:
        """Return the state after one step of every head on (B, N, D) frozen tokens and (B,) labels."""

        def step(params: Any, opt_state: Any, rate: jax.Array) -> tuple[Any, Any]:
            grads = jax.grad(self._loss)(params, tokens, labels)
            updates, opt_state = _optimizer(rate).update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        decay = optax.cosine_decay_schedule(1.0, self.steps)(state.step)
        rates = decay * jnp.asarray(self.rates, jnp.float32)
        params, opt_state = jax.vmap(step)(state.params, state.opt_state, rates)
        return HeadsState(state.step + 1, params, opt_state)

    @partial(jax.jit, static_argnums=0)
    def count_correct(self, state: HeadsState, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        """Return (R,) numbers of correct classes for (B, N, D), (B,); 0 for a head that has diverged."""
        logits = jax.vmap(self._logits, in_axes=(0, None))(state.params, tokens)
        correct = (logits.argmax(-1) == labels) & jnp.isfinite(logits).all(-1)
        return correct.sum(-1)

    @property
    def _head(self) -> AttentiveHead:
        return AttentiveHead(self.classes, self.heads)

    def _logits(self, params: Any, tokens: jax.Array) -> jax.Array:
        return cast(jax.Array, self._head.apply({"params": params}, tokens))

    def _loss(self, params: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        """Mean over the rows that are not padding."""
        valid = labels >= 0
        logits = self._logits(params, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.clip(0))
        return (losses * valid).sum() / valid.sum().clip(1)


def _optimizer(rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    def is_kernel(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.adamw(rate, weight_decay=WEIGHT_DECAY, mask=is_kernel)
