"""Tables of positions for another grid: every scheme is linear along each axis, so a matrix per axis.

A matrix is (target, source) float64 NumPy; `apply` contracts the axes of a parameter with theirs.
Source: FastMIM's `util/pos_embed.py`, and `remap_pretrained_keys_swin` of SimMIM's `utils.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import make_interp_spline

CUBIC = -0.75  # the coefficient of PyTorch's cubic convolution
FASTMIM_BOUNDS, SIMMIM_BOUNDS = (0.5, 2.0), (1.01, 1.5)  # between which each code searches its ratio
RATIO_TOLERANCE = 1e-6


def bicubic(source, target):
    """Cubic convolution along one axis: a (target, source) matrix.

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` does it: pixel centres are
    aligned, the border is repeated, and nothing is smoothed where target < source.
    """
    places = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(places).astype(int)
    matrix = np.zeros((target, source))
    for step in (-1, 0, 1, 2):
        weights = _cubic(np.abs(places - first - step))
        np.add.at(matrix, (np.arange(target), np.clip(first + step, 0, source - 1)), weights)
    return matrix


def _cubic(distance):
    """Weight of a pixel at 0 <= distance <= 2 (Keys 1981)."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def geometric(source, target, bounds=FASTMIM_BOUNDS):
    """The scheme of SimMIM for tables of relative positions -w+1 ... w-1: a (target, source) matrix.

    The entries of the source are put at distances from 0 that grow geometrically and end where the
    target's end, as positions far apart matter less exactly. A cubic spline through them is read at the
    target's whole positions, and its first and last value beyond its ends.

    Args:
      source, target: entries along one axis, 2 * w - 1 of a window of w cells.
      bounds: the smallest and largest ratio between a step and the one before it. Where the ratio that
        fits is outside, the source's ends are not at the target's; the default is FastMIM's.

    Raises:
      ValueError: an even number of entries.
    """
    if source % 2 == 0 or target % 2 == 0:
        raise ValueError(f"relative positions along an axis are odd in number, not {source} or {target}")
    if source == 1:
        return np.ones((target, 1))
    steps = _ratio(source // 2, target // 2, bounds) ** np.arange(source // 2)
    distances = np.cumsum(steps)
    places = np.concatenate([-distances[::-1], [0], distances])
    # Up to three entries have too few neighbours for a cubic.
    spline = make_interp_spline(places, np.eye(source), k=1 if source <= 3 else 3)
    wanted = np.arange(target) - target // 2.0
    return spline(np.clip(wanted, places[0], places[-1]))


def _ratio(count, distance, bounds):
    """The ratio of `count` steps, the first of 1, that add up to `distance`: bisected within bounds."""
    low, high = bounds
    while high - low > RATIO_TOLERANCE:
        ratio = (low + high) / 2  # the last one tried is the result, as published
        low, high = (low, ratio) if np.sum(ratio ** np.arange(count)) > distance else (ratio, high)
    return ratio


def apply(matrices, x):
    """Contracts the axes of x with their matrices, in float32.

    Args:
      matrices: one (target, source) matrix for every axis of x, or None where an axis stays as it is.
      x: array, NumPy's or JAX's.

    Returns:
      A float32 JAX array with the targets' lengths.
    """
    x = jnp.asarray(x, jnp.float32)
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            weights = jnp.asarray(matrix, jnp.float32)
            x = jnp.tensordot(weights, x, (1, axis), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(x, 0, axis)
    return x


def second_moments(matrices):
    """Matrices for Adam's second moments of what `matrices` resample: absolute, rows normalised to 1.

    So moments stay non-negative, and since a mean of squares is at least the square of the mean, a
    resampled first moment is at most (sum of absolute weights) * sqrt(resampled second moment) where
    each source's is at most the root of its second: the next updates stay bounded.
    """
    absolute = [None if matrix is None else np.abs(matrix) for matrix in matrices]
    return tuple(None if matrix is None else matrix / matrix.sum(1, keepdims=True) for matrix in absolute)


# Last part of a parameter's path -> its scheme, and which axes are grids by its number of axes.
RULES = {
    "relative_position_bias_table": (geometric, {3: (0, 1)}),  # (2h-1, 2w-1, heads)
    "relative_position": (bicubic, {5: (1, 2, 3, 4)}),  # (heads, h, w, rows and columns of keys)
    "pos_embed": (bicubic, {3: (0, 1), 4: (1, 2)}),  # (h, w, D) or (1, h, w, D)
}


def matrices_for(name, source_shape, target_shape, schemes=None):
    """The matrix of every axis that takes a parameter from one shape to another, None where it keeps.

    CMT's matrices of relative positions are resampled as the grids of queries and keys that they are;
    the published helper, which is never called, takes them for one picture: `flat_relative_position`.

    Args:
      name: path of the parameter, joined by "/"; its last part is a key of RULES.
      schemes: {last part: scheme} where another than that of RULES is used.

    Raises:
      ValueError: a name or number of axes without a rule, or another axis that differs, such as heads.
    """
    last = name.split("/")[-1]
    scheme, grids = RULES.get(last, (None, {}))
    scheme = (schemes or {}).get(last, scheme)
    if scheme is None or len(source_shape) not in grids or len(source_shape) != len(target_shape):
        raise ValueError(f"there is no rule to resample '{name}' from {source_shape} to {target_shape}")
    matrices = []
    for axis, (source, target) in enumerate(zip(source_shape, target_shape, strict=True)):
        if source != target and axis not in grids[len(source_shape)]:
            raise ValueError(
                f"'{name}' cannot go from {source_shape} to {target_shape}: axis {axis} is no grid's"
            )
        matrices.append(None if source == target else scheme(source, target))
    return tuple(matrices)


def resample(name, x, shape, schemes=None):
    """The parameter x under a path `name` for another `shape`; x itself where the shape is the same.

    Raises:
      ValueError: as `matrices_for`.
    """
    if tuple(x.shape) == tuple(shape):
        return x
    return apply(matrices_for(name, x.shape, shape, schemes), x)


def flat_relative_position(x, shape):
    """CMT's relative positions as the published helper resamples them: one bicubic picture.

    It mixes the end of a row of cells with the start of the next; for results that were made with it.

    Args:
      x: (heads, queries, keys).
      shape: the same, of another image size.
    """
    pairs = zip(x.shape, shape, strict=True)
    matrices = [None if source == target else bicubic(source, target) for source, target in pairs]
    return apply(matrices, x)
