"""Convolutions, and the batch norm of convolutional backbones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.device import shard_count, shard_index, sum_over_shards
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.typing import Array

# On CPUs XLA's grouped convolution is 5 times slower than 9 shifted sums, gradients included; 49 of them
# would gain less than they take to compile.
MAX_SHIFTED_SIZE = 3


def fan_out_normal(groups: int = 1) -> Initializer:
    """Return the He-normal initialiser of a grouped convolution: variance 2 * groups / fan-out."""

    def init(key, shape, dtype=jnp.float32):
        rows, columns, _, outputs = shape
        return jax.random.normal(key, shape, dtype) * np.sqrt(2.0 * groups / (rows * columns * outputs))

    return init


class Conv(nn.Module):
    """A size x size convolution, padded by half its size, with a bias initialised as zero."""

    width: int
    size: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = fan_out_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B _h _w {self.width}"]:
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = _convolve(x.astype(self.dtype), kernel, self.stride)
        if not self.use_bias:
            return y
        return y + broadcast_parameter(self.param("bias", nn.initializers.zeros, (self.width,)), y)


class DepthwiseConv(nn.Module):
    """A size x size depthwise convolution."""

    size: int = 3
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = fan_out_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        width = x.shape[-1]
        shape = (self.size, self.size, 1, width)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size > MAX_SHIFTED_SIZE:
            y = _depthwise(x, kernel)
        else:
            y = jax.lax.platform_dependent(x, kernel, cpu=_shifted_sums, default=_depthwise)
        return y + broadcast_parameter(self.param("bias", nn.initializers.zeros, (width,)), y)


def _convolve(x, kernel, stride=1, groups=1):
    pad = kernel.shape[0] // 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, None, None, dimensions, groups
    )


def _depthwise(x, kernel):
    return _convolve(x, kernel, groups=x.shape[-1])


def _shifted_sums(x, kernel):
    size, (_, rows, columns, _) = kernel.shape[0], x.shape
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    steps = [(down, right) for down in range(size) for right in range(size)]
    return sum(
        broadcast_parameter(kernel[down, right, 0], x)
        * padded[:, down : down + rows, right : right + columns]
        for down, right in steps
    )


class BatchNorm(nn.Module):
    """PyTorch's batch norm: unbiased running variances, float32 statistics.

    It normalises by the batch if the collection "batch_stats" is mutable, else by the running statistics.

    Attributes:
      groups: groups of consecutive images with statistics of their own, like the devices of the published
        training; 1: statistics of the whole batch, on any number of devices. Running statistics are the
        mean of the groups'.
      momentum: the new batch's share of the running statistics.
    """

    groups: int = 1
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        """Normalise a batch.

        Raises:
          ValueError: the groups do not divide the batch.
        """
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        variance = self.variable("batch_stats", "var", jnp.ones, (width,))
        if self.is_initializing() or not self.is_mutable_collection("batch_stats"):
            return self._normalize(x, mean.value, variance.value, scale, bias)
        if x.shape[0] * shard_count() % self.groups:
            raise ValueError(
                f"{x.shape[0]} images cannot be split into {self.groups} groups for batch norm, expected "
                "norm_groups that divide the batch"
            )
        x_float = x.astype(jnp.float32)
        if self.groups % shard_count():
            groups, mean_of = x_float[:, None], functools.partial(_mean_across_shards, groups=self.groups)
        else:
            groups = x_float.reshape(self.groups // shard_count(), -1, *x.shape[1:])
            mean_of = functools.partial(jnp.mean, axis=(1, 2, 3), keepdims=True)
        means = mean_of(groups)
        variances = mean_of(jnp.square(groups - means))
        count = x.size // width * shard_count() // self.groups
        self._update(mean, means)
        self._update(variance, variances * (count / max(count - 1, 1)))
        return self._normalize(groups, means, variances, scale, bias).reshape(x.shape)

    def _update(self, running, new):
        new = sum_over_shards(new.mean(0).reshape(-1)) / shard_count()
        running.value = (1 - self.momentum) * running.value + self.momentum * new

    def _normalize(self, x, mean, variance, scale, bias):
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype)


def _mean_across_shards(x, groups):
    """Return the mean of each row's group, (B, 1, 1, 1, D), for a shard (B, 1, h, w, D) of a batch.

    Groups are of consecutive images of the batch, and cross the bounds of shards.
    """
    images = len(x) * shard_count() // groups  # of a group
    rows = shard_index() * len(x) + jnp.arange(len(x))
    membership = jax.nn.one_hot(rows // images, groups)
    exact = jax.lax.Precision.HIGHEST
    sums = jnp.einsum("bg,bd->gd", membership, x.mean((1, 2, 3)), precision=exact)
    means = jnp.einsum("bg,gd->bd", membership, sum_over_shards(sums) / images, precision=exact)
    return means[:, None, None, None]
