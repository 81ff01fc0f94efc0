"""The attentive probe: learned queries look at the frozen tokens, a linear layer tells the class.

For features whose mean over the tokens says little, as those of masked image modelling. Source: AIM
(El-Nouby et al. 2024), with every token standardised on its own in place of its batch norm.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fastmim_jax.errors import UserError

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
WEIGHT_DECAY = 0.1


class AttentiveHead(nn.Module):
    """One cross-attention without biases, with one learned query a head, and a linear layer.

    Attributes:
      classes: number of them.
      heads: number of heads; D must be a multiple of it.
    """

    classes: int
    heads: int

    @nn.compact
    def __call__(self, tokens):
        """(B, N, D) frozen tokens -> logits (B, classes) float32."""
        tokens = tokens.astype(jnp.float32)
        tokens = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(tokens)
        width, size = tokens.shape[-1], tokens.shape[-1] // self.heads
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        query = self.param("query", nn.initializers.normal(0.02), (self.heads, size))
        key = self.param("key", init, (width, self.heads, size))
        value = self.param("value", init, (width, self.heads, size))
        # The queries are the same for every token: projecting them, and what was attended to, in place of
        # the tokens gives the same at a share of the work and memory.
        looked_for = jnp.einsum("he,dhe->hd", query, key) / size**0.5
        attention = jax.nn.softmax(jnp.einsum("hd,bnd->bhn", looked_for, tokens))
        seen = jnp.einsum("bhn,bnd->bhd", attention, tokens)
        pooled = jnp.einsum("bhd,dhe->bhe", seen, value).reshape(len(tokens), width)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), name="head")(pooled)


class State(NamedTuple):
    """step: (), updates done. params, opt_state: trees whose leaves have R as their first axis."""

    step: jax.Array
    params: Any
    opt_state: Any


@dataclass(frozen=True)
class Attentive:
    """One AttentiveHead for every learning rate; all see the same batches and begin alike.

    AdamW with weight decay on all but the biases, and half a cosine from the rate down to 0. The caller
    streams the tokens, and chooses the rate by images that are neither trained on nor tested on. A label
    of -1 marks a row of padding, which counts nothing.

    Attributes:
      classes: number of them.
      width: D, of the tokens.
      heads: number of them; D must be a multiple of it.
      rates: R learning rates, a tuple.
      steps: updates that will be made.
      seed: of the initial values.

    Raises:
      UserError: heads that do not divide the width.
    """

    classes: int
    width: int
    heads: int = 12
    rates: tuple = RATES
    steps: int = 1000
    seed: int = 0

    def __post_init__(self):
        if self.heads < 1 or self.width % self.heads:
            raise UserError(
                f"{self.heads} heads cannot share the {self.width} channels of a token: give a number of "
                f"heads that divides {self.width}"
            )

    def init(self):
        """-> State."""
        params = self._head.init(jax.random.key(self.seed), jnp.zeros((1, 1, self.width)))["params"]
        params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(self.rates), 0), params)
        return State(jnp.zeros((), jnp.int32), params, jax.vmap(self._optimizer.init)(params))

    @partial(jax.jit, static_argnums=0)
    def update(self, state, tokens, labels):
        """One step of every head: (B, N, D) frozen tokens, (B,) labels -> State."""
        factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(state.step / self.steps, 1)))

        def one(params, opt_state, rate):
            moves, opt_state = self._optimizer.update(
                jax.grad(self._loss)(params, tokens, labels), opt_state, params
            )
            return jax.tree.map(lambda value, move: value - rate * move, params, moves), opt_state

        rates = factor * jnp.asarray(self.rates, jnp.float32)
        params, opt_state = jax.vmap(one)(state.params, state.opt_state, rates)
        return State(state.step + 1, params, opt_state)

    @partial(jax.jit, static_argnums=0)
    def accuracies(self, state, tokens, labels):
        """(B, N, D), (B,) -> (R,) how many are told right; none by a head that has diverged."""
        logits = jax.vmap(self._logits, in_axes=(0, None))(state.params, tokens)
        right = (logits.argmax(-1) == labels) & jnp.isfinite(logits).all(-1)
        return right.sum(-1)

    @property
    def _head(self):
        return AttentiveHead(self.classes, self.heads)

    @property
    def _optimizer(self):
        def kernels(params):
            return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

        return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(WEIGHT_DECAY, mask=kernels))

    def _logits(self, params, tokens):
        return self._head.apply({"params": params}, tokens)

    def _loss(self, params, tokens, labels):
        """Mean over the rows that are not padding."""
        counted = labels >= 0
        logits = self._logits(params, tokens)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels.clip(0))
        return (losses * counted).sum() / counted.sum().clip(1)
