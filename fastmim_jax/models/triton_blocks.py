"""Building blocks of attention kernels in Pallas: a head's tokens, scores, and the call."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LOG2_E = math.log2(math.e)  # the kernels compute powers of 2
MASKED = -1e30  # finite, so that a row without any key has no NaN
interpret = False


def call(kernel: Callable, grid: tuple[int, ...], outputs: Any, warps: int, stages: int, name: str):
    """Return a call of a kernel that sees whole arrays."""
    params = None if interpret else triton.CompilerParams(num_warps=warps, num_stages=stages)
    return pl.pallas_call(
        kernel, grid=grid, out_shape=outputs, interpret=interpret, compiler_params=params, name=name
    )


def load_tokens(ref, window, head, start, size, count):
    """Return (size, d): a head's tokens from `start` on, zero from token `count` on."""
    index = ref.at[window, pl.ds(start, size), head, :]
    if count % size == 0:
        return triton.load(index)
    return triton.load(index, mask=_inside(start, size, count)[:, None], other=0)


def store_tokens(ref, window, head, start, count, x):
    """Store (size, d) as a head's tokens from `start` on, up to token `count`."""
    size = x.shape[0]
    index = ref.at[window, pl.ds(start, size), head, :]
    mask = None if count % size == 0 else _inside(start, size, count)[:, None]
    triton.store(index, x.astype(ref.dtype), mask=mask)


def load_labels(ref, window, start, size, count):
    """Return (size,): the labels of tokens from `start` on, or None without labels."""
    if ref is None:
        return None
    index = ref.at[window, pl.ds(start, size)]
    if count % size == 0:
        return triton.load(index)
    return triton.load(index, mask=_inside(start, size, count), other=-1)


def _inside(start, size, count):
    return start + jax.lax.iota(jnp.int32, size) < count


def product(x, y):
    """Return x @ y in float32."""
    return jax.lax.dot_general(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def product_transposed(x, y):
    """Return x @ y.T in float32."""
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def scores(rows, columns, bias, row_labels, column_labels):
    """Return the scores of each row with each column times log2(e)."""
    scale = rows.shape[1] ** -0.5 * LOG2_E
    result = product_transposed(rows, columns) * scale + bias
    if row_labels is None:
        return result
    return jnp.where(row_labels[:, None] == column_labels[None, :], result, MASKED)
