"""Fused attention with a learned bias, for NVIDIA GPUs: kernels in Pallas that store no scores.

The Triton backend of Pallas is deprecated in JAX: where a version of JAX lacks it, `supports` returns False
and attention is XLA's. Up to 64 tokens a program of the kernels holds a window (`triton_small_windows`);
beyond, it takes blocks of tokens (`triton_large_windows`, after FlashAttention-2, arXiv 2307.08691).
"""

import warnings
from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from fastmim_jax.models.device import batch_axes, per_device
from fastmim_jax.models.typing import Array

try:
    from fastmim_jax.models import triton_large_windows, triton_small_windows
    from fastmim_jax.models.triton_blocks import LOG2_E, MASKED
except ImportError:  # this JAX has no Triton backend
    HAS_TRITON = False
else:
    HAS_TRITON = True
    warnings.filterwarnings(
        "ignore", message="The Pallas Triton backend is deprecated", category=DeprecationWarning
    )

MAX_TOKENS = 256
HEAD_WIDTHS = (16, 32, 64)


def supports(tokens: int, head_width: int, dtype: DTypeLike) -> bool:
    """Return whether the kernels compute attention over a number of tokens, for heads of a width."""
    fits = tokens <= MAX_TOKENS and head_width in HEAD_WIDTHS
    return HAS_TRITON and fits and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)


def window_attention(
    query: Float[Array, "W N heads d"],
    key: Float[Array, "W N heads d"],
    value: Float[Array, "W N heads d"],
    bias: Float[Array, "R heads N N"],
    labels: Int[Array, "W N"] | None = None,
    shift_mask: Bool[Array, "n N N"] | None = None,
) -> Float[Array, "W N heads d"]:
    """Return softmax(query key^T / sqrt(d) + bias) value for W windows, computed on each device's windows.

    Scores and softmax are in float32, as is the sum of the gradient of the bias over the windows. The
    backward pass stores query, key and value, and beyond 64 tokens the output and the log-sum-exp.

    Args:
      bias: of the scores, one for each of the R devices that hold a part of the batch, see `device_copies`.
      labels: a query attends to the keys with its own label; None: to all.
      shift_mask: True where a query may attend to a key, at w % n for window w.
    """
    bias = bias.astype(jnp.float32)[:, None]  # (R, n, heads, N, N)
    if shift_mask is not None:
        bias = jnp.where(shift_mask[:, None], bias, MASKED)
    return _attend(query, key, value, bias, labels)


@jax.custom_vjp
def _attend(query, key, value, bias, labels):
    return _attend_forward(query, key, value, bias, labels)[0]


def _attend_forward(query, key, value, bias, labels):
    kernels = _kernels(query.shape[1])

    def forward(query, key, value, bias, labels):
        return kernels.forward(query, key, value, _pad_bias(bias[0], kernels), labels)

    split = PartitionSpec(batch_axes())
    output, saved = per_device(forward, split, split)(query, key, value, bias, labels)
    return output, (query, key, value, bias, labels, saved)


def _attend_backward(saved, gradient):
    query, key, value, bias, labels, saved = saved
    kernels, count = _kernels(query.shape[1]), query.shape[1]

    def backward(query, key, value, bias, *rest):
        *gradients, sums = kernels.backward(query, key, value, _pad_bias(bias[0], kernels), *rest)
        return *gradients, sums.sum(0)[None, ..., :count, :count]

    split = PartitionSpec(batch_axes())
    gradients = per_device(backward, split, split)(query, key, value, bias, labels, saved, gradient)
    return *gradients, None


_attend.defvjp(_attend_forward, _attend_backward)


def _kernels(tokens: int) -> ModuleType:
    return triton_small_windows if tokens <= triton_small_windows.MAX_TOKENS else triton_large_windows


def _pad_bias(bias, kernels):
    """Return the bias of scores as powers of 2, padded for the kernels: no query attends to added keys."""
    count = bias.shape[-1]
    extra = kernels.padded_tokens(count) - count
    keys = [(0, 0)] * (bias.ndim - 1) + [(0, extra)]
    queries = [(0, 0)] * (bias.ndim - 2) + [(0, extra), (0, 0)]
    return jnp.pad(jnp.pad(bias * LOG2_E, keys, constant_values=MASKED), queries)
