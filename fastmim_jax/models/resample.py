"""Resampling of position tables to another grid: linear along each axis, one matrix per axis.

A matrix is (target, source), float64; `apply_matrices` contracts each axis of a parameter with its matrix.
Source: FastMIM's `util/pos_embed.py`, and `remap_pretrained_keys_swin` of SimMIM's `utils.py`.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped
from scipy.interpolate import make_interp_spline

from fastmim_jax.models.typing import Array

CUBIC = -0.75  # the coefficient of PyTorch's cubic convolution
FASTMIM_BOUNDS, SIMMIM_BOUNDS = (0.5, 2.0), (1.01, 1.5)  # of the ratio in `geometric`, by published code
RATIO_TOLERANCE = 1e-6

Matrix = Float[np.ndarray, "_target _source"]
Matrices = Sequence[Matrix | None]  # of every axis; None: the axis stays as it is
Scheme = Callable[[int, int], Matrix]


def bicubic(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """Return the matrix of a cubic convolution along one axis.

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: pixel centres are aligned,
    the border is repeated, without antialiasing.
    """
    positions = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(positions).astype(int)
    matrix = np.zeros((target, source))
    for step in (-1, 0, 1, 2):
        weights = _cubic(np.abs(positions - first - step))
        np.add.at(matrix, (np.arange(target), np.clip(first + step, 0, source - 1)), weights)
    return matrix


def _cubic(distance):
    """Return the weight of a pixel at 0 <= distance <= 2 (Keys 1981)."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def bilinear(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """Return the matrix of linear interpolation along one axis.

    As `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`: pixel centres are aligned,
    the border is repeated, without antialiasing.
    """
    positions = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.floor(positions).astype(int)
    matrix = np.zeros((target, source))
    for step, weights in ((0, 1 - (positions - first)), (1, positions - first)):
        np.add.at(matrix, (np.arange(target), np.minimum(first + step, source - 1)), weights)
    return matrix


def geometric(
    source: int, target: int, bounds: tuple[float, float] = FASTMIM_BOUNDS
) -> Float[np.ndarray, "{target} {source}"]:
    """Return the matrix of SimMIM's scheme for tables of relative positions -w+1 ... w-1.

    The entries of the source are placed at distances from 0 that grow geometrically, with the same ends as
    the target. A cubic spline through them is evaluated at the target's integer positions; beyond the ends
    it is constant.

    Args:
      source, target: entries along one axis, 2 * w - 1 for a window of w cells.
      bounds: smallest and largest ratio between consecutive steps; if the ratio that fits is outside, the
        ends differ. The default is FastMIM's.

    Raises:
      ValueError: an even number of entries.
    """
    if source % 2 == 0 or target % 2 == 0:
        raise ValueError(
            f"relative positions go from {source} to {target} entries along an axis, expected odd numbers"
        )
    if source == 1:
        return np.ones((target, 1))
    steps = _ratio(source // 2, target // 2, bounds) ** np.arange(source // 2)
    distances = np.cumsum(steps)
    positions = np.concatenate([-distances[::-1], [0], distances])
    # A cubic needs more than three entries.
    spline = make_interp_spline(positions, np.eye(source), k=1 if source <= 3 else 3)
    target_positions = np.arange(target) - target // 2.0
    return spline(np.clip(target_positions, positions[0], positions[-1]))


def _ratio(count, distance, bounds):
    """Return the ratio of `count` steps from 1 that add up to `distance`, bisected within bounds."""
    low, high = bounds
    while high - low > RATIO_TOLERANCE:
        ratio = (low + high) / 2  # the last midpoint is the result, as published
        low, high = (low, ratio) if np.sum(ratio ** np.arange(count)) > distance else (ratio, high)
    return ratio


def apply_matrices(matrices: Matrices, x: Shaped[Array, "..."]) -> Float[jax.Array, "..."]:
    """Contract the axes of x with their matrices, in float32."""
    x = jnp.asarray(x, jnp.float32)
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            weights = jnp.asarray(matrix, jnp.float32)
            x = jnp.tensordot(weights, x, (1, axis), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(x, 0, axis)
    return x


def second_moment_matrices(matrices: Matrices) -> Matrices:
    """Return the matrices for Adam's second moments of a resampled parameter: absolute, row sums of 1.

    Second moments stay non-negative. A mean of squares is at least the square of the mean, so a resampled
    first moment is at most (sum of absolute weights) * sqrt(resampled second moment) if each first moment
    was at most the root of its second: the next updates stay bounded.
    """
    absolute = [None if matrix is None else np.abs(matrix) for matrix in matrices]
    return tuple(None if matrix is None else matrix / matrix.sum(1, keepdims=True) for matrix in absolute)


# {last part of a parameter's path: (scheme, {number of axes: axes of grids})}
RULES: dict[str, tuple[Scheme, dict[int, tuple[int, ...]]]] = {
    "relative_position_bias_table": (geometric, {3: (0, 1)}),  # (2h-1, 2w-1, heads)
    "relative_position": (bicubic, {5: (1, 2, 3, 4)}),  # (heads, h, w, rows and columns of keys)
    "pos_embed": (bicubic, {3: (0, 1), 4: (1, 2)}),  # (h, w, D) or (1, h, w, D)
}


def resampling_matrices(
    name: str,
    source_shape: Sequence[int],
    target_shape: Sequence[int],
    schemes: Mapping[str, Scheme] | None = None,
) -> Matrices:
    """Return the matrix of every axis that resamples a parameter from one shape to another.

    CMT's relative positions are resampled as grids of queries and of keys; the published helper, which is
    never called, takes them for one image, see `flat_relative_position`.

    Args:
      name: path of the parameter, joined by "/"; its last part is a key of RULES.
      schemes: {last part: scheme} that replace those of RULES.

    Raises:
      ValueError: no rule for this name and number of axes, or a difference in an axis that is not a grid's,
        such as heads.
    """
    last = name.split("/")[-1]
    scheme, grids = RULES.get(last, (None, {}))
    scheme = (schemes or {}).get(last, scheme)
    if scheme is None or len(source_shape) not in grids or len(source_shape) != len(target_shape):
        raise ValueError(f"no rule to resample '{name}' from {source_shape} to {target_shape}")
    matrices = []
    for axis, (source, target) in enumerate(zip(source_shape, target_shape, strict=True)):
        if source != target and axis not in grids[len(source_shape)]:
            raise ValueError(
                f"'{name}' cannot be resampled from {source_shape} to {target_shape}: axis {axis} is not "
                "an axis of a grid"
            )
        matrices.append(None if source == target else scheme(source, target))
    return tuple(matrices)


def resample(
    name: str,
    x: Shaped[Array, "..."],
    shape: Sequence[int],
    schemes: Mapping[str, Scheme] | None = None,
) -> Shaped[Array, "..."]:
    """Return the parameter x resampled to a shape; x itself if it has the shape.

    name, schemes: see `resampling_matrices`, also for errors.
    """
    if tuple(x.shape) == tuple(shape):
        return x
    return apply_matrices(resampling_matrices(name, x.shape, shape, schemes), x)


def flat_relative_position(
    x: Shaped[Array, "heads queries keys"], shape: tuple[int, int, int]
) -> Float[jax.Array, "heads _queries _keys"]:
    """Return CMT's relative positions resampled as by the published helper: as one bicubic image.

    It mixes the end of a row of cells with the start of the next; it reproduces results that used it.
    """
    pairs = zip(x.shape, shape, strict=True)
    matrices = [None if source == target else bicubic(source, target) for source, target in pairs]
    return apply_matrices(matrices, x)
