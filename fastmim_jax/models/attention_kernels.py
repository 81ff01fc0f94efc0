"""Kernels of multi-head attention: XLA's products and a softmax, or fused ones of cuDNN or Pallas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from fastmim_jax.models.device import on_nvidia_gpu
from fastmim_jax.models.linear import sum_to_shape
from fastmim_jax.models.triton_attention import HAS_TRITON, supports
from fastmim_jax.models.typing import Array

KERNELS = ("auto", "xla", "cudnn", "pallas")
SCORES = "...qd,...kd->...qk"
LARGEST_NEGATIVE = np.finfo(np.float32).min
TOKEN_MULTIPLE = 8  # on an NVIDIA GPU: XLA would pad the operands of every 16-bit product by itself


def choose_kernel(
    kernel: str, dtype: DTypeLike, head_width: int, has_bias: bool, tokens: int | None = None
) -> str:
    """Return the kernel, "xla", "cudnn" or "pallas", that an attention is computed with.

    Args:
      kernel: one of KERNELS; "auto" is a fused kernel on NVIDIA GPUs in 16 bits: "pallas" with a bias,
        "cudnn" without, else "xla". So is "pallas" where there is a bias that its kernels do not support.
      head_width: channels of a head.
      has_bias: whether the scores have a bias, whose gradient cuDNN's kernel does not give for all lengths.
      tokens: that attend to each other; None: few enough for all kernels.
    """
    if kernel in ("xla", "cudnn"):
        return kernel
    fused = _can_be_fused(dtype)
    if has_bias:
        return "pallas" if fused and supports(tokens or 1, head_width, dtype) else "xla"
    return "cudnn" if fused and kernel == "auto" and not cudnn_refusal(head_width) else "xla"


def describe_kernel(kernel: str, dtype: DTypeLike, head_width: int, has_bias: bool) -> str:
    """Return the kernel of `choose_kernel`, with the reason where a fused one cannot be used."""
    chosen = choose_kernel(kernel, dtype, head_width, has_bias)
    if chosen != "xla" or kernel == "xla" or not _can_be_fused(dtype):
        return chosen
    if has_bias:
        reason = "" if HAS_TRITON else "this JAX has no Triton backend of Pallas"
        reason = reason or f"no kernel in Pallas for heads of {head_width} channels"
        return f"xla ({reason})"
    return f"xla (no cuDNN: {cudnn_refusal(head_width)})" if kernel == "auto" else chosen


def _can_be_fused(dtype):
    return on_nvidia_gpu() and jnp.dtype(dtype).itemsize == 2


@functools.cache
def cudnn_refusal(head_width: int) -> str:
    """Return why this machine's cuDNN has no kernel for heads of a width; "" if it has one."""
    x = jax.ShapeDtypeStruct((1, 2, 1, head_width), jnp.bfloat16)
    try:
        jax.eval_shape(cudnn_attention, x, x, x)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return ""


def cudnn_attention(
    query: Float[Array, "B N heads d"],
    key: Float[Array, "B N heads d"],
    value: Float[Array, "B N heads d"],
    lengths: Int[Array, " B"] | None = None,
) -> Float[Array, "B N heads d"]:
    """Return softmax(query key^T / sqrt(d)) value by cuDNN's kernel, which stores no scores.

    Args:
      lengths: tokens of each sequence; those after them are padding. N is even.
    """
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def xla_attention(
    query: Float[Array, "*batch N heads d"],
    key: Float[Array, "*batch M heads d"],
    value: Float[Array, "*batch M heads d"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch N heads d"]:
    """Return softmax(query key^T / sqrt(d) + bias) value, with scores and softmax in float32.

    The backward pass stores the weights in the dtype of the values, and no float32 scores.

    Args:
      bias: of the scores, broadcastable to (*batch, heads, N, M).
      mask: True where a query may attend to a key, broadcastable likewise.
    """
    bias = None if bias is None else bias.astype(jnp.float32)
    return _attend(query, key, value, bias, mask)


@jax.custom_vjp
def _attend(query, key, value, bias, mask):
    return _attend_forward(query, key, value, bias, mask)[0]


def _attend_forward(query, key, value, bias, mask):
    num_queries, num_keys = query.shape[-3], key.shape[-3]
    heads = query, key, value = tuple(map(_heads_first, (query, key, value)))
    scores = jnp.einsum(SCORES, query, key, preferred_element_type=jnp.float32) * _scale(query)
    if bias is not None:
        scores = scores + _pad_scores(bias, scores.shape)
    if mask is not None:
        scores = jnp.where(_pad_scores(mask, scores.shape), scores, LARGEST_NEGATIVE)
    if scores.shape[-1] > num_keys:
        scores = jnp.where(np.arange(scores.shape[-1]) < num_keys, scores, -np.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    output = _heads_last(weights @ value, num_queries)
    return output, (heads, num_keys, bias, weights, output)


def _attend_backward(saved, gradient):
    (query, key, value), num_keys, bias, weights, output = saved
    # Without the barrier XLA keeps float32 scores and computes float32 weights from them again.
    weights, output = jax.lax.optimization_barrier((weights, output))
    num_queries = gradient.shape[-3]
    # sum(weights * their gradient) over the keys, from arrays without the axis of the keys
    mean = (gradient.astype(jnp.float32) * output.astype(jnp.float32)).sum(-1, keepdims=True)
    mean, gradient = _pad_tokens(jnp.swapaxes(mean, -2, -3), query.shape[-2]), _heads_first(gradient)
    weights_gradient = jnp.einsum(SCORES, gradient, value, preferred_element_type=jnp.float32)
    scores_gradient = weights.astype(jnp.float32) * (weights_gradient - mean)
    bias_gradient = None
    if bias is not None:
        unpadded = scores_gradient[..., :num_queries, :num_keys]
        bias_gradient = sum_to_shape(unpadded, bias.shape)
    scaled = (scores_gradient * _scale(query)).astype(query.dtype)
    query_gradient = _heads_last(scaled @ key, num_queries)
    key_gradient = _heads_last(jnp.swapaxes(scaled, -1, -2) @ query, num_keys)
    value_gradient = _heads_last(jnp.swapaxes(weights, -1, -2) @ gradient, num_keys)
    return query_gradient, key_gradient, value_gradient, bias_gradient, None


_attend.defvjp(_attend_forward, _attend_backward)


def _heads_first(x):
    """Return (*batch, heads, N, d), padded to the number of tokens that products on the device need."""
    x = jnp.swapaxes(x, -2, -3)
    multiple = TOKEN_MULTIPLE if on_nvidia_gpu() and x.dtype.itemsize == 2 else 1
    return _pad_tokens(x, -(-x.shape[-2] // multiple) * multiple)


def _heads_last(x, count):
    """Return (*batch, N, heads, d) for the first N tokens of (*batch, heads, N', d)."""
    return jnp.swapaxes(x[..., :count, :], -2, -3)


def _pad_tokens(x, count):
    extra = count - x.shape[-2]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)]) if extra else x


def _pad_scores(x, shape):
    """Return the bias or mask of scores, padded with zeros to the padded queries and keys."""
    extra = [
        (0, 0 if size == 1 else full - size) for size, full in zip(x.shape[-2:], shape[-2:], strict=True)
    ]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + extra)


def _scale(query):
    return np.float32(query.shape[-1] ** -0.5)
