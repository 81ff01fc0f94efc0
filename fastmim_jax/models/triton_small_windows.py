"""Attention kernels in Pallas for windows of at most 64 tokens.

A program takes one head and one place of the windows, which have the same bias, and loops over images; it
holds the bias and the sum of its gradient in registers. The backward pass computes the softmax again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from fastmim_jax.models import triton_blocks as blocks

MAX_TOKENS = 64
WARPS = {16: 1, 32: 2, 64: 4}  # for each number of padded tokens
STAGES = 2
PROGRAMS = 132 * 32  # warps that an H100 runs at a time, at 32 for each of its multiprocessors


def padded_tokens(count: int) -> int:
    """Return the tokens that a program computes with: products take at least 16, and powers of two."""
    return max(16, pl.next_power_of_2(count))


def forward(query, key, value, bias, labels):
    """Return the output, and nothing that `backward` needs.

    Args:
      bias: (n, heads, M, M), padded; for the others see `triton_attention.window_attention`.
    """
    output = jax.ShapeDtypeStruct(query.shape, query.dtype)
    kernel = _call(_forward_kernel, query, bias, output, "window_attention")
    return kernel(query, key, value, bias, labels), ()


def backward(query, key, value, bias, labels, saved, gradient):
    """Return the gradients of query, key, value and bias; that of the bias as sums of several programs."""
    del saved
    outputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)]
    slices = _slices(query, bias)
    outputs.append(jax.ShapeDtypeStruct((slices, *bias.shape), jnp.float32))
    kernel = _call(_backward_kernel, query, bias, outputs, "window_attention_gradient")
    return tuple(kernel(query, key, value, bias, labels, gradient))


def _slices(query, bias):
    """Return the number of programs that share the images of one head and place."""
    places, heads, padded, _ = bias.shape
    return min(len(query) // places, max(1, PROGRAMS // (WARPS[padded] * places * heads)))


def _call(kernel, query, bias, outputs, name):
    places, heads, padded, _ = bias.shape
    grid = (heads, places, _slices(query, bias))
    return blocks.call(
        functools.partial(kernel, images=len(query) // places), grid, outputs, WARPS[padded], 2, name
    )


def _for_each_window(images, body, carry):
    """Return the last carry of body(window, carry) over the windows of a program."""
    places, place = pl.num_programs(1), pl.program_id(1)
    slices, first = pl.num_programs(2), pl.program_id(2)
    steps = (images - first + slices - 1) // slices
    return jax.lax.fori_loop(
        0, steps, lambda step, carry: body((first + step * slices) * places + place, carry), carry
    )


def _weights(query, key, bias, labels):
    x = blocks.scores(query, key, bias, labels, labels)
    x = jnp.exp2(x - x.max(1)[:, None])
    return x / x.sum(1)[:, None]


def _forward_kernel(query_ref, key_ref, value_ref, bias_ref, labels_ref, out_ref, *, images):
    head, count, padded = pl.program_id(0), query_ref.shape[1], bias_ref.shape[-1]
    bias = bias_ref[pl.program_id(1), head]

    def body(window, carry):
        refs = query_ref, key_ref, value_ref
        query, key, value = (blocks.load_tokens(ref, window, head, 0, padded, count) for ref in refs)
        labels = blocks.load_labels(labels_ref, window, 0, padded, count)
        weights = _weights(query, key, bias, labels).astype(value.dtype)
        blocks.store_tokens(out_ref, window, head, 0, count, blocks.product(weights, value))
        return carry

    _for_each_window(images, body, None)


def _backward_kernel(
    query_ref,
    key_ref,
    value_ref,
    bias_ref,
    labels_ref,
    gradient_ref,
    dquery_ref,
    dkey_ref,
    dvalue_ref,
    dbias_ref,
    *,
    images,
):
    head, count, padded = pl.program_id(0), query_ref.shape[1], bias_ref.shape[-1]
    bias = bias_ref[pl.program_id(1), head]
    scale = query_ref.shape[-1] ** -0.5

    def body(window, dbias):
        refs = query_ref, key_ref, value_ref, gradient_ref
        query, key, value, gradient = (
            blocks.load_tokens(ref, window, head, 0, padded, count) for ref in refs
        )
        labels = blocks.load_labels(labels_ref, window, 0, padded, count)
        weights = _weights(query, key, bias, labels)
        dweights = blocks.product_transposed(gradient, value)
        dscores = weights * (dweights - (weights * dweights).sum(1)[:, None])
        dvalue = blocks.product(weights.astype(gradient.dtype).T, gradient)
        blocks.store_tokens(dvalue_ref, window, head, 0, count, dvalue)
        rounded = dscores.astype(query.dtype)
        blocks.store_tokens(dquery_ref, window, head, 0, count, blocks.product(rounded, key) * scale)
        blocks.store_tokens(dkey_ref, window, head, 0, count, blocks.product(rounded.T, query) * scale)
        return dbias + dscores

    dbias = _for_each_window(images, body, jnp.zeros((padded, padded), jnp.float32))
    dbias_ref[pl.program_id(2), pl.program_id(1), head] = dbias
