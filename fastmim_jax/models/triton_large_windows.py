"""Attention kernels in Pallas for windows of more than 64 tokens.

A program takes one head and one block of queries (of keys for their gradient) of several windows with the
same bias, so that it loads each block of the bias once for all of them. Windows with the same bias have
the same place in their images. Source: FlashAttention-2 (arXiv 2307.08691).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from fastmim_jax.models import triton_blocks as blocks

BLOCK = 64  # tokens of a program
WARPS = 4
STAGES = 2
# Channels of the windows of a program together: its registers hold their sums in float32.
QUERY_CHANNELS, KEY_CHANNELS = 64, 64
BIAS_PROGRAMS = 132 * 4 * 2


def padded_tokens(count: int) -> int:
    """Return the number of tokens in whole blocks."""
    return -(-count // BLOCK) * BLOCK


def _step(count):
    """Return the number of tokens that are computed at a time: 32 where that leaves fewer added ones."""
    return BLOCK if 0 == count % BLOCK or count % BLOCK > BLOCK // 2 else BLOCK // 2


def forward(query, key, value, bias, labels):
    """Return the output, and what `backward` needs: output and log-sum-exp.

    Args:
      bias: (n, heads, M, M), padded; for the others see `triton_attention.window_attention`.
    """
    outputs = [jax.ShapeDtypeStruct(query.shape, query.dtype), _row_values(query, bias)]
    kernel = _call(_forward_kernel, query, bias, QUERY_CHANNELS, outputs, "large_window_attention")
    output, log_sum = kernel(query, key, value, bias, labels)
    return output, (output, log_sum)


def backward(query, key, value, bias, labels, saved, gradient):
    """Return the gradients of query, key, value and bias; that of the bias as sums of several programs."""
    output, log_sum = saved
    shape = jax.ShapeDtypeStruct(query.shape, query.dtype)
    outputs = [shape, _row_values(query, bias)]
    kernel = _call(_query_kernel, query, bias, QUERY_CHANNELS, outputs, "large_window_query_gradient")
    dquery, mean = kernel(query, key, value, bias, labels, output, gradient, log_sum)
    kernel = _call(_key_kernel, query, bias, KEY_CHANNELS, [shape, shape], "large_window_key_gradient")
    transposed = jnp.swapaxes(bias, -1, -2)
    dkey, dvalue = kernel(query, key, value, transposed, labels, gradient, log_sum, mean)
    dbias = _bias_gradient(query, key, value, bias, labels, gradient, log_sum, mean)
    return dquery, dkey, dvalue, dbias


def _row_values(query, bias):
    """Return the shape of one float32 number for each query, padded to whole blocks."""
    return jax.ShapeDtypeStruct((len(query), bias.shape[1], bias.shape[2]), jnp.float32)


def _call(kernel, query, bias, channels, outputs, name):
    places, heads, padded, _ = bias.shape
    images = len(query) // places
    group = min(max(1, channels // query.shape[-1]), images & -images)
    grid = (padded // BLOCK, heads, places, images // group)
    return blocks.call(functools.partial(kernel, group=group), grid, outputs, WARPS, STAGES, name)


def _windows(group):
    """Return the windows of a program."""
    places, place, first = pl.num_programs(2), pl.program_id(2), pl.program_id(3) * group
    return [(first + image) * places + place for image in range(group)]


def _forward_kernel(query_ref, key_ref, value_ref, bias_ref, labels_ref, out_ref, log_sum_ref, *, group):
    start, head, place = pl.program_id(0) * BLOCK, pl.program_id(1), pl.program_id(2)
    count, width, windows = query_ref.shape[1], query_ref.shape[3], _windows(group)
    step = _step(count)
    queries = [blocks.load_tokens(query_ref, window, head, start, BLOCK, count) for window in windows]
    labels = [blocks.load_labels(labels_ref, window, start, BLOCK, count) for window in windows]

    def attend(window, query, labels, bias, begin, state):
        total, largest, output = state
        key = blocks.load_tokens(key_ref, window, head, begin, step, count)
        value = blocks.load_tokens(value_ref, window, head, begin, step, count)
        key_labels = blocks.load_labels(labels_ref, window, begin, step, count)
        x = blocks.scores(query, key, bias, labels, key_labels)
        new = jnp.maximum(largest, x.max(1))
        weights, correction = jnp.exp2(x - new[:, None]), jnp.exp2(largest - new)
        output = output * correction[:, None] + blocks.product(weights.astype(value.dtype), value)
        return total * correction + weights.sum(1), new, output

    def body(index, states):
        begin = index * step
        bias = bias_ref[place, head, pl.ds(start, BLOCK), pl.ds(begin, step)]
        zipped = zip(windows, queries, labels, states, strict=True)
        return tuple(attend(*window, bias, begin, state) for *window, state in zipped)

    zeros = jnp.zeros(BLOCK, jnp.float32)
    empty = (zeros, zeros - jnp.inf, jnp.zeros((BLOCK, width), jnp.float32))
    states = jax.lax.fori_loop(0, pl.cdiv(count, step), body, (empty,) * group)
    for window, (total, largest, output) in zip(windows, states, strict=True):
        blocks.store_tokens(out_ref, window, head, start, count, output / total[:, None])
        log_sum_ref[window, head, pl.ds(start, BLOCK)] = largest + jnp.log2(total)


def _query_kernel(
    query_ref,
    key_ref,
    value_ref,
    bias_ref,
    labels_ref,
    output_ref,
    gradient_ref,
    log_sum_ref,
    dquery_ref,
    mean_ref,
    *,
    group,
):
    start, head, place = pl.program_id(0) * BLOCK, pl.program_id(1), pl.program_id(2)
    count, width, windows = query_ref.shape[1], query_ref.shape[3], _windows(group)
    step, rows = _step(count), pl.ds(start, BLOCK)

    def load(window):
        refs = query_ref, gradient_ref, output_ref
        query, gradient, output = (
            blocks.load_tokens(ref, window, head, start, BLOCK, count) for ref in refs
        )
        mean = (gradient.astype(jnp.float32) * output.astype(jnp.float32)).sum(1)
        mean_ref[window, head, rows] = mean
        labels = blocks.load_labels(labels_ref, window, start, BLOCK, count)
        return window, query, gradient, labels, log_sum_ref[window, head, rows], mean

    loaded = [load(window) for window in windows]

    def gradient_of_query(window, query, gradient, labels, log_sum, mean, bias, begin):
        key = blocks.load_tokens(key_ref, window, head, begin, step, count)
        value = blocks.load_tokens(value_ref, window, head, begin, step, count)
        key_labels = blocks.load_labels(labels_ref, window, begin, step, count)
        weights = jnp.exp2(blocks.scores(query, key, bias, labels, key_labels) - log_sum[:, None])
        dscores = weights * (blocks.product_transposed(gradient, value) - mean[:, None])
        return blocks.product(dscores.astype(key.dtype), key)

    def body(index, sums):
        begin = index * step
        bias = bias_ref[place, head, rows, pl.ds(begin, step)]
        zipped = zip(sums, loaded, strict=True)
        return tuple(total + gradient_of_query(*window, bias, begin) for total, window in zipped)

    zeros = (jnp.zeros((BLOCK, width), jnp.float32),) * group
    sums = jax.lax.fori_loop(0, pl.cdiv(count, step), body, zeros)
    for window, dquery in zip(windows, sums, strict=True):
        blocks.store_tokens(dquery_ref, window, head, start, count, dquery * width**-0.5)


def _key_kernel(
    query_ref,
    key_ref,
    value_ref,
    bias_ref,
    labels_ref,
    gradient_ref,
    log_sum_ref,
    mean_ref,
    dkey_ref,
    dvalue_ref,
    *,
    group,
):
    """Store the gradients of a block of keys and values; scores and bias have keys as rows."""
    start, head, place = pl.program_id(0) * BLOCK, pl.program_id(1), pl.program_id(2)
    count, width, windows = query_ref.shape[1], query_ref.shape[3], _windows(group)
    step = _step(count)

    def load(window):
        key, value = (
            blocks.load_tokens(ref, window, head, start, BLOCK, count) for ref in (key_ref, value_ref)
        )
        return window, key, value, blocks.load_labels(labels_ref, window, start, BLOCK, count)

    loaded = [load(window) for window in windows]

    def add(sums, window, key, value, labels, bias, begin):
        columns = pl.ds(begin, step)
        query = blocks.load_tokens(query_ref, window, head, begin, step, count)
        gradient = blocks.load_tokens(gradient_ref, window, head, begin, step, count)
        query_labels = blocks.load_labels(labels_ref, window, begin, step, count)
        x = blocks.scores(key, query, bias, labels, query_labels)
        weights = jnp.exp2(x - log_sum_ref[window, head, columns][None])
        dscores = weights * (
            blocks.product_transposed(value, gradient) - mean_ref[window, head, columns][None]
        )
        dkey, dvalue = sums
        return (
            dkey + blocks.product(dscores.astype(query.dtype), query),
            dvalue + blocks.product(weights.astype(gradient.dtype), gradient),
        )

    def body(index, sums):
        begin = index * step
        bias = bias_ref[place, head, pl.ds(start, BLOCK), pl.ds(begin, step)]
        return tuple(add(total, *window, bias, begin) for total, window in zip(sums, loaded, strict=True))

    zeros = jnp.zeros((BLOCK, width), jnp.float32)
    sums = jax.lax.fori_loop(0, pl.cdiv(count, step), body, ((zeros, zeros),) * group)
    for window, (dkey, dvalue) in zip(windows, sums, strict=True):
        blocks.store_tokens(dkey_ref, window, head, start, count, dkey * width**-0.5)
        blocks.store_tokens(dvalue_ref, window, head, start, count, dvalue)


def _bias_gradient(query, key, value, bias, labels, gradient, log_sum, mean):
    places, heads, padded, _ = bias.shape
    parts, images = padded // BLOCK, len(query) // places
    slices = min(images, max(1, BIAS_PROGRAMS // (parts**2 * heads * places)))
    kernel = blocks.call(
        functools.partial(_bias_kernel, images=images),
        (parts, parts, heads, places, slices),
        jax.ShapeDtypeStruct((slices, *bias.shape), jnp.float32),
        WARPS,
        STAGES,
        "large_window_bias_gradient",
    )
    return kernel(query, key, value, bias, labels, gradient, log_sum, mean)


def _bias_kernel(
    query_ref,
    key_ref,
    value_ref,
    bias_ref,
    labels_ref,
    gradient_ref,
    log_sum_ref,
    mean_ref,
    out_ref,
    *,
    images,
):
    """Store the sum over some images of the gradient of a block of the bias."""
    start, begin, head, place, first = (
        pl.program_id(0) * BLOCK,
        pl.program_id(1) * BLOCK,
        pl.program_id(2),
        pl.program_id(3),
        pl.program_id(4),
    )
    places, slices, count = pl.num_programs(3), pl.num_programs(4), query_ref.shape[1]
    rows, columns = pl.ds(start, BLOCK), pl.ds(begin, BLOCK)
    bias = bias_ref[place, head, rows, columns]

    def body(index, total):
        window = (first + index * slices) * places + place
        query, gradient = (
            blocks.load_tokens(ref, window, head, start, BLOCK, count) for ref in (query_ref, gradient_ref)
        )
        key, value = (
            blocks.load_tokens(ref, window, head, begin, BLOCK, count) for ref in (key_ref, value_ref)
        )
        labels, key_labels = (
            blocks.load_labels(labels_ref, window, position, BLOCK, count) for position in (start, begin)
        )
        x = blocks.scores(query, key, bias, labels, key_labels)
        weights = jnp.exp2(x - log_sum_ref[window, head, rows][:, None])
        dweights = blocks.product_transposed(gradient, value)
        return total + weights * (dweights - mean_ref[window, head, rows][:, None])

    steps = (images - first + slices - 1) // slices
    zeros = jnp.zeros((BLOCK, BLOCK), jnp.float32)
    out_ref[first, place, head, rows, columns] = jax.lax.fori_loop(0, steps, body, zeros)
