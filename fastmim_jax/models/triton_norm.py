"""Layer norm for NVIDIA GPUs as Pallas kernels: one pass over the activations each way.

XLA takes several passes: its backward pass writes a float32 array of the size of the activations and reads
it again for the sums over the rows. Rows are the tokens of all images. Programs share no memory, so a sum
over the rows comes as one partial sum per program. Pallas's Triton backend is deprecated in JAX: without it
`supports_width` is False.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.typing import Array

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None  # type: ignore[assignment]

warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)

BLOCK_ELEMENTS = 4096  # that a program holds in its registers at a time, in several rows
MAX_BLOCK_ROWS = 32
MIN_CHUNK, MAX_CHUNKS = 32, 8  # smallest and most parts of a row; Triton's blocks have powers of two
PROGRAMS = 1056  # of a sum over the rows: 8 for each of the 132 multiprocessors of an H100
WARPS = 4
INTERPRET = False  # tests without a GPU run the kernels in Python


def supports_width(width: int) -> bool:
    """Return whether rows of `width` channels split into few chunks of a power of two."""
    return triton is not None and _chunk(width) >= MIN_CHUNK and width // _chunk(width) <= MAX_CHUNKS


def _chunk(width):
    return width & -width


def _slices(width):
    return [slice(start, start + _chunk(width)) for start in range(0, width, _chunk(width))]


def _block_rows(rows, width):
    limit = BLOCK_ELEMENTS // (1 << (width - 1).bit_length())
    return min(max(limit, 1), MAX_BLOCK_ROWS, rows & -rows)


def _kernel_call(kernel: Callable, grid: tuple[int, ...], outputs: Any, **options: Any) -> Callable:
    params = None if INTERPRET else triton.CompilerParams(num_warps=WARPS, num_stages=2)
    return pl.pallas_call(
        kernel, grid=grid, out_shape=outputs, interpret=INTERPRET, compiler_params=params, **options
    )


def add_norm(
    x: Float[Array, "rows D"],
    branch: Float[Array, "rows D"] | None,
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float,
    dtype: DTypeLike,
) -> tuple[Float[Array, "rows D"], Float[Array, "rows D"]]:
    """Return x + branch (x without one) in the dtype of x, and its layer norm in `dtype`."""
    rows, width = x.shape
    size = _block_rows(rows, width)
    block = pl.BlockSpec((size, width), lambda i: (i, 0))
    vector = pl.BlockSpec((width,), lambda i: (0,))
    total, norm = (jax.ShapeDtypeStruct(x.shape, kind) for kind in (x.dtype, dtype))
    grid, options = (rows // size,), dict(name="add_layer_norm")
    if branch is None:
        kernel, specs = functools.partial(_norm_kernel, epsilon=epsilon), [block, vector, vector]
        call = _kernel_call(kernel, grid, norm, in_specs=specs, out_specs=block, **options)
        return x, call(x, scale, bias)
    kernel, specs = functools.partial(_add_norm_kernel, epsilon=epsilon), [block, block, vector, vector]
    call = _kernel_call(kernel, grid, (total, norm), in_specs=specs, out_specs=(block, block), **options)
    return call(x, branch, scale, bias)


def _norm_kernel(x_ref, scale_ref, bias_ref, norm_ref, *, epsilon):
    x = [x_ref[:, part].astype(jnp.float32) for part in _slices(x_ref.shape[1])]
    _write_norm(x, scale_ref, bias_ref, norm_ref, epsilon)


def _add_norm_kernel(x_ref, branch_ref, scale_ref, bias_ref, total_ref, norm_ref, *, epsilon):
    parts = _slices(x_ref.shape[1])
    totals = [
        x_ref[:, part].astype(jnp.float32) + branch_ref[:, part].astype(jnp.float32) for part in parts
    ]
    rounded = [total.astype(total_ref.dtype) for total in totals]
    for part, total in zip(parts, rounded, strict=True):
        total_ref[:, part] = total
    _write_norm([total.astype(jnp.float32) for total in rounded], scale_ref, bias_ref, norm_ref, epsilon)


def _write_norm(x, scale_ref, bias_ref, norm_ref, epsilon):
    width = norm_ref.shape[1]
    normalized, _ = _standardize(x, width, epsilon)
    for part, values in zip(_slices(width), normalized, strict=True):
        norm_ref[:, part] = (values * scale_ref[part][None] + bias_ref[part][None]).astype(norm_ref.dtype)


def _standardize(x, width, epsilon):
    """Return (x - mean) / deviation and 1 / deviation of rows that are given in parts."""
    mean = _row_mean(x, width)
    centred = [values - mean for values in x]
    inverse = jax.lax.rsqrt(_row_mean([values * values for values in centred], width) + epsilon)
    return [values * inverse for values in centred], inverse


def _row_mean(parts, width):
    return sum(values.sum(1) for values in parts)[:, None] / width


def norm_gradient(
    x: Float[Array, "rows D"],
    passed: Float[Array, "rows D"],
    gradient: Float[Array, "rows D"],
    scale: Float[Array, " D"],
    epsilon: float,
) -> tuple[Float[Array, "rows D"], Float[Array, "programs D"], Float[Array, "programs D"]]:
    """Return the gradients of x, scale and bias of a layer norm; of scale and bias the partial sums.

    Args:
      passed: a gradient of x to which that of the norm is added.
      gradient: of the norm.
    """
    rows, width = x.shape
    size = _block_rows(rows, width)
    programs = min(PROGRAMS, rows // size)
    row = pl.BlockSpec((1, width), lambda i: (i, 0))
    sums = jax.ShapeDtypeStruct((programs, width), jnp.float32)
    call = _kernel_call(
        functools.partial(_norm_gradient_kernel, epsilon=epsilon, size=size),
        (programs,),
        (jax.ShapeDtypeStruct(x.shape, x.dtype), sums, sums),
        out_specs=(pl.no_block_spec, row, row),
        name="layer_norm_gradient",
    )
    return call(x, passed, gradient, scale)


def _norm_gradient_kernel(
    x_ref, passed_ref, gradient_ref, scale_ref, dx_ref, dscale_ref, dbias_ref, *, epsilon, size
):
    rows, width = x_ref.shape
    parts = _slices(width)
    scales = [scale_ref[part][None] for part in parts]
    program, programs = pl.program_id(0), pl.num_programs(0)

    def body(step, sums):
        block = pl.ds((program + step * programs) * size, size)
        gradient = [gradient_ref[block, part].astype(jnp.float32) for part in parts]
        x = [x_ref[block, part].astype(jnp.float32) for part in parts]
        normalized, inverse = _standardize(x, width, epsilon)
        scaled = [values * scale for values, scale in zip(gradient, scales, strict=True)]
        products = [a * b for a, b in zip(gradient, normalized, strict=True)]
        mean = _row_mean(scaled, width)
        slope = _row_mean([a * b for a, b in zip(scaled, normalized, strict=True)], width)
        for part, values, normal in zip(parts, scaled, normalized, strict=True):
            dx = inverse * (values - mean - normal * slope) + passed_ref[block, part].astype(jnp.float32)
            dx_ref[block, part] = dx.astype(dx_ref.dtype)
        return jax.tree.map(jnp.add, sums, (products, gradient))

    zeros = [jnp.zeros((size, part.stop - part.start), jnp.float32) for part in parts]
    steps = (rows // size - program + programs - 1) // programs
    dscale, dbias = jax.lax.fori_loop(0, steps, body, (zeros, zeros))
    for part, scale_sum, bias_sum in zip(parts, dscale, dbias, strict=True):
        dscale_ref[0, part], dbias_ref[0, part] = scale_sum.sum(0), bias_sum.sum(0)
