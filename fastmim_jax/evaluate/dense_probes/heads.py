"""The linear head of dense probes: BatchNorm without affine parameters, a 1x1 convolution, bilinear up.

Trained at several learning rates at once on the same batches. Source: the linear evaluation of DINOv3
(arXiv 2508.10104) and Pixio (arXiv 2512.15715): AdamW, weight decay 0.01, polynomial decay of the rate.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fastmim_jax.evaluate.dense_probes.tasks import Task

RATES = (2e-4, 1e-3, 5e-3, 2e-2)  # the first is Pixio's
WEIGHT_DECAY = 0.01
POWER = 0.9  # of the decay
MOMENTUM = 0.9  # of the running statistics
EPSILON = 1e-5


class HeadState(NamedTuple):
    """R heads that share their statistics.

    step: (), updates done. mean, variance: (D,), running. params: (kernel (R, D, K), bias (R, K)).
    opt_state: leaves with R as their first axis.
    """

    step: jax.Array
    mean: jax.Array
    variance: jax.Array
    params: tuple[jax.Array, jax.Array]
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class DenseHeads:
    """One head for every learning rate; all start at zero.

    Attributes:
      task: see `Task`.
      steps: total number of updates.
      rates: R learning rates.
    """

    task: Task
    steps: int
    rates: tuple[float, ...] = RATES

    def init(self, width: int) -> HeadState:
        """Return the state before the first update, for features of D channels."""
        count, outputs = len(self.rates), self.task.outputs
        params = jnp.zeros((count, width, outputs)), jnp.zeros((count, outputs))
        opt_state = jax.vmap(_optimizer(0.0).init)(params)
        return HeadState(jnp.zeros((), jnp.int32), jnp.zeros(width), jnp.ones(width), params, opt_state)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, state: HeadState, features: jax.Array, target: jax.Array) -> HeadState:
        """Return the state after one step of every head on (B, h, w, D) features and (B, H, W) targets."""
        x = features.astype(jnp.float32)
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        z = (x - mean) / jnp.sqrt(variance + EPSILON)
        decay = (1 - state.step / self.steps) ** POWER

        def step(head: tuple[Any, Any, jax.Array]) -> tuple[Any, Any]:
            params, opt_state, rate = head

            def loss(params: Any) -> jax.Array:
                return self.task.loss(_upsample(z, params, target.shape[1:]), target)

            updates, opt_state = _optimizer(rate).update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        rates = decay * jnp.asarray(self.rates, jnp.float32)
        # One after the other: the upsampled outputs of a single head are the largest arrays.
        params, opt_state = jax.lax.map(step, (state.params, state.opt_state, rates))
        keep = jnp.where(state.step == 0, 0.0, MOMENTUM)
        mean = keep * state.mean + (1 - keep) * mean
        variance = keep * state.variance + (1 - keep) * variance
        return HeadState(state.step + 1, mean, variance, params, opt_state)

    @partial(jax.jit, static_argnums=0)
    def count(self, state: HeadState, features: jax.Array, target: jax.Array) -> jax.Array:
        """Return (R, ...), `Task.count` of every head for (B, h, w, D) features and (B, H, W) targets."""
        z = _normalize(state, features)

        def one(params: Any) -> jax.Array:
            raw = _upsample(z, params, target.shape[1:])
            return self.task.count(self.task.predict(raw), target)

        return jax.lax.map(one, state.params)

    @partial(jax.jit, static_argnums=0)
    def outputs(self, state: HeadState, features: jax.Array) -> jax.Array:
        """Return (B, h, w, R, K), the outputs of every head for (B, h, w, D) features."""
        kernel, bias = state.params
        return jnp.einsum("bhwd,rdk->bhwrk", _normalize(state, features), kernel) + bias

    @partial(jax.jit, static_argnums=(0, 3, 4))
    def predict(self, state: HeadState, features: jax.Array, size: tuple[int, int], head: int) -> jax.Array:
        """Return (B, H, W) predictions of one head for (B, h, w, D) features; size: (H, W)."""
        params = jax.tree.map(lambda leaf: leaf[head], state.params)
        return self.task.predict(_upsample(_normalize(state, features), params, size))


def _normalize(state: HeadState, features: jax.Array) -> jax.Array:
    return (features.astype(jnp.float32) - state.mean) / jnp.sqrt(state.variance + EPSILON)


def _upsample(z: jax.Array, params: tuple[jax.Array, jax.Array], size: tuple[int, ...]) -> jax.Array:
    """-> (B, H, W, K) outputs of one head for normalised features (B, h, w, D)."""
    outputs = z @ params[0] + params[1]
    shape = (len(z), *size, outputs.shape[-1])
    return jax.image.resize(outputs, shape, "bilinear", antialias=False)


def _optimizer(rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=WEIGHT_DECAY)
