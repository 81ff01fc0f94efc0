"""Layer norm with float32 statistics, alone or together with the residual addition before it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models import triton_norm
from fastmim_jax.models.device import batch_axes, batch_parts, on_nvidia_gpu, per_device
from fastmim_jax.models.typing import Array


class LayerNorm(nn.Module):
    """Layer norm over the channels, with float32 statistics and a two-pass variance.

    dtype: of the output.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Return the normalised x."""
        return self.after_residual(x)[1]

    @nn.compact
    def after_residual(
        self, x: Float[Array, "*batch D"], branch: Float[Array, "*batch D"] | None = None
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch D"]]:
        """Return x + branch (x without one), and its norm.

        Where x goes on as a residual, use the x that is returned: its gradient and that of the norm are
        then added in one pass over the activations.
        """
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        divided = len(x) % batch_parts() == 0  # else no device has a part of its own
        if on_nvidia_gpu() and divided and triton_norm.supports_width(x.shape[-1]):
            return _fused_norm(x, branch, scale, bias, self.epsilon, jnp.dtype(self.dtype))
        x = x if branch is None else x + branch
        return x, _normalize(x, scale, bias, self.epsilon).astype(self.dtype)


def _normalize(x, scale, bias, epsilon):
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _fused_norm(x, branch, scale, bias, epsilon, dtype):
    return _fused_forward(x, branch, scale, bias, epsilon, dtype)[0]


def _fused_forward(x, branch, scale, bias, epsilon, dtype):
    def forward(x, branch, scale, bias):
        rows = [None if array is None else array.reshape(-1, array.shape[-1]) for array in (x, branch)]
        outputs = triton_norm.add_norm(*rows, scale, bias, epsilon, dtype)
        return tuple(output.reshape(x.shape) for output in outputs)

    split, full = PartitionSpec(batch_axes()), PartitionSpec()
    total, y = per_device(forward, (split, split, full, full), (split, split))(x, branch, scale, bias)
    return (total, y), (total, scale, None if branch is None else branch[:0])


def _fused_backward(epsilon, dtype, saved, gradients):
    total, scale, empty_branch = saved

    def backward(x, passed, gradient, scale):
        rows = (array.reshape(-1, array.shape[-1]) for array in (x, passed, gradient))
        dx, *sums = triton_norm.norm_gradient(*rows, scale, epsilon)
        return dx.reshape(x.shape), *sums

    split, full = PartitionSpec(batch_axes()), PartitionSpec()
    specs = (split, split, split, full), (split, split, split)
    dx, dscale, dbias = per_device(backward, *specs)(total, *gradients, scale)
    branch_gradient = None if empty_branch is None else dx.astype(empty_branch.dtype)
    return dx, branch_gradient, dscale.sum(0), dbias.sum(0)


_fused_norm.defvjp(_fused_forward, _fused_backward)
