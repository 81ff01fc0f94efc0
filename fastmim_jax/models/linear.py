"""Linear layers, and sums over the batch that bfloat16 would spoil."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.typing import Array


@jax.custom_vjp
def matmul(x: Float[Array, "*batch D"], kernel: Float[Array, "D F"]) -> Float[Array, "*batch F"]:
    """Return x @ kernel in the dtype of x; the gradient of the kernel is summed in the kernel's dtype."""
    return x @ kernel.astype(x.dtype)


def _matmul_forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved, gradient):
    x, kernel = saved
    x_gradient = gradient @ kernel.astype(gradient.dtype).T
    # XLA's CPU backend is several times slower where a product contracts two axes; on a TPU, flattening
    # them is a copy because the tokens are padded there.
    kernel_gradient = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=functools.partial(_flat_kernel_gradient, dtype=kernel.dtype),
        default=functools.partial(_kernel_gradient, dtype=kernel.dtype),
    )
    return x_gradient, kernel_gradient


def _kernel_gradient(x, gradient, dtype):
    axes = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(x, gradient, ((axes, axes), ((), ())), preferred_element_type=dtype)


def _flat_kernel_gradient(x, gradient, dtype):
    rows = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
    return _kernel_gradient(*rows, dtype=dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


def broadcast_parameter(parameter: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a parameter with the shape and dtype of `like`; its gradient is summed in float32.

    Sums over a batch in bfloat16, which has 8 bits, would lose most of it.

    Args:
      parameter: broadcastable to `like`.
    """
    return _broadcast(parameter, like.shape, jnp.dtype(like.dtype))


def _broadcast(parameter, shape, dtype):
    @jax.custom_vjp
    def broadcast(parameter):
        return jnp.broadcast_to(parameter.astype(dtype), shape)

    def forward(parameter):
        return broadcast(parameter), None

    def backward(_, gradient):
        return (sum_to_shape(gradient, parameter.shape).astype(parameter.dtype),)

    broadcast.defvjp(forward, backward)
    return broadcast(parameter)


def sum_to_shape(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Sum x in float32 over the axes along which an array of a shape was broadcast to x."""
    missing = x.ndim - len(shape)
    kept = enumerate(shape, missing)
    axes = (*range(missing), *(axis for axis, size in kept if size == 1 != x.shape[axis]))
    return x.sum(axes, dtype=jnp.float32).reshape(shape)


class Dense(nn.Module):
    """A linear layer initialised as in published MIM code: Xavier-uniform kernel, zero bias."""

    width: int
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch {self.width}"]:
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (x.shape[-1], self.width))
        y = matmul(x.astype(self.dtype), kernel)
        if not self.use_bias:
            return y
        return y + broadcast_parameter(self.param("bias", nn.initializers.zeros, (self.width,)), y)


class SplitDense(nn.Module):
    """`parts` linear layers of the same input, with their parameters side by side as in one Dense.

    Each part is a product of its own: splitting the result of one product would copy it.
    """

    parts: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> tuple[Float[Array, "*batch {self.width}"], ...]:
        shape = (x.shape[-1], self.parts * self.width)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        x = x.astype(self.dtype)
        outputs = [matmul(x, part) for part in jnp.split(kernel, self.parts, axis=1)]
        biases = jnp.split(bias, self.parts)
        return tuple(y + broadcast_parameter(b, y) for y, b in zip(outputs, biases, strict=True))
