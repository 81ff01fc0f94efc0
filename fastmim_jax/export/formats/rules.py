"""Building blocks of key tables: rules from published names to ours, and transforms of the arrays."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import FormatMismatch

Arrays = np.ndarray | tuple[np.ndarray, ...]
State = Mapping[str, np.ndarray]


class Transform(NamedTuple):
    """Conversion of the values of one array, in both directions.

    Where several arrays correspond to one or several, each function takes all arrays of its side, and
    returns a tuple of all arrays of the other side, or the array itself if that is one.

    to_ours, to_theirs: the two functions; they raise FormatMismatch for arrays of wrong shapes.
    ndim: number of axes of each of their arrays; None for any.
    """

    to_ours: Callable[..., Arrays]
    to_theirs: Callable[..., Arrays]
    ndim: int | None = None


Suffixes = str | tuple[str, ...]
ArrayRule = tuple[Suffixes, Suffixes, Transform]


class Rule(NamedTuple):
    """Correspondence of one of their modules to one of ours.

    theirs: dotted name. ours: slashed path. arrays: (their suffix, our suffix, transform) of each array; a
    suffix is a string, or a tuple of strings for arrays that a transform joins or splits.
    """

    theirs: str
    ours: str
    arrays: tuple[ArrayRule, ...]


Buffers = Callable[[State, tuple[int, int], Mapping[str, tuple[int, int]]], dict[str, np.ndarray]]


class Format(NamedTuple):
    """Naming scheme of a library or a published repository for one kind of model.

    name: unique, such as "timm_vit".
    library: name in `formats.LIBRARIES`.
    family: backbone family, a key of `infer_backbone.USUAL`.
    kind: "fastmim", "mae", "mixmim" or "simmim" for a pre-trained model with its head or decoder, else
      "classifier": a backbone with or without a head.
    buffers: functions of `formats.buffers`, for arrays that are no parameters.
    ignorable: parts of names that mark ignorable buffers.
    distinctive: last parts of names that distinguish it from formats with otherwise the same names.
    """

    name: str
    library: str
    family: str
    kind: str
    table: tuple[Rule, ...]
    buffers: tuple[Buffers, ...] = ()
    ignorable: tuple[str, ...] = ("relative_position_index", "attn_mask", "num_batches_tracked")
    distinctive: tuple[str, ...] = ()


def _to_flat(x: np.ndarray) -> np.ndarray:
    """(h, w, n) or (h * w, n) -> (h * w, n)."""
    return x.reshape(-1, x.shape[-1])


def _pixels_last(x: np.ndarray) -> np.ndarray:
    """(..., 3 * size * size) in the order channel, row, column -> the same with channels last."""
    size = math.isqrt(x.shape[-1] // 3)
    if 3 * size**2 != x.shape[-1]:
        raise FormatMismatch(f"{x.shape[-1]} outputs make no square of pixels with 3 channels")
    x = x.reshape(*x.shape[:-1], 3, size, size)
    return np.moveaxis(x, -3, -1).reshape(*x.shape[:-3], -1)


def _pixels_first(x: np.ndarray) -> np.ndarray:
    """Invert `_pixels_last`."""
    x = x.reshape(*x.shape[:-1], math.isqrt(x.shape[-1] // 3), -1, 3)
    return np.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)


def concatenate(*parts: np.ndarray) -> np.ndarray:
    """Join arrays along their first axis, after a check that the other axes agree."""
    shapes = {x.shape[1:] for x in parts}
    if len(shapes) > 1:
        raise FormatMismatch(f"{' and '.join(str(x.shape) for x in parts)} cannot be joined")
    return np.concatenate(parts)


def first_of(x: np.ndarray) -> np.ndarray:
    """(1, ...) -> (...)."""
    if len(x) != 1:
        raise FormatMismatch(f"an array of {x.shape}, expected a first axis of length 1")
    return x[0]


def _split_relative(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[:-3], x[-3:]


def _split_positions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = first_of(x)
    return x, x[:0]


def _join_positions(grid: np.ndarray, cls: np.ndarray) -> np.ndarray:
    return np.concatenate([cls, _to_flat(grid)])[None]


def _add_key_bias(query: np.ndarray, value: np.ndarray) -> np.ndarray:
    return concatenate(query, np.zeros_like(query), value)


SAME = Transform(lambda x: x, lambda x: x)
VECTOR = SAME._replace(ndim=1)
TRANSPOSE = Transform(np.transpose, np.transpose, 2)  # Linear: (out, in) <-> (in, out)
OIHW = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1), 4)
# Tables stay flat on the way to ours: `grids.restore_grids` knows their sides.
# A bias table: (rows * columns, heads) <-> (rows, columns, heads)
TABLE = Transform(lambda x: x, _to_flat, 2)
PIXEL = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1), 4)

# (1, K + N, D) -> (K + N, D) and no entry of cls, (0, D); (h, w, D) and (K, D) of cls -> (1, K + N, D).
POSITIONS = Transform(_split_positions, _join_positions, 3)
# (1, N, D) <-> (h, w, D)
GRID_POSITIONS = Transform(first_of, lambda x: _to_flat(x)[None], 3)
# (rows * columns + 3, heads) <-> (rows, columns, heads) and (3, heads), the entries of cls.
RELATIVE = Transform(_split_relative, lambda table, cls: np.concatenate([_to_flat(table), cls]), 2)
# Biases of queries and values <-> of queries, keys and values. The bias of keys changes nothing but
# rounding: it adds the same to every score of a query.
QUERY_VALUE = Transform(_add_key_bias, lambda x: (x[: len(x) // 3], x[-(len(x) // 3) :]), 1)
# A 1 x 1 convolution and a PixelShuffle <-> a linear layer, for 3 channels: outputs in the order channel,
# row, column <-> row, column, channel.
SHUFFLED_KERNEL = Transform(
    lambda x: _pixels_last(x[:, :, 0, 0].T), lambda x: _pixels_first(x).T[:, :, None, None], 4
)
SHUFFLED_BIAS = Transform(_pixels_last, _pixels_first, 1)
MIX_TOKEN = Transform(lambda x: x[:, None], lambda x: x[:, 0], 3)  # (1, 1, D) <-> (1, 1, 1, D)

LINEAR: tuple[ArrayRule, ...] = ((".weight", "/kernel", TRANSPOSE), (".bias", "/bias", VECTOR))
CONV: tuple[ArrayRule, ...] = ((".weight", "/kernel", OIHW), (".bias", "/bias", VECTOR))
NORM: tuple[ArrayRule, ...] = ((".weight", "/scale", VECTOR), (".bias", "/bias", VECTOR))


def array(transform: Transform = SAME) -> tuple[ArrayRule, ...]:
    """Return the arrays of a rule that names a single array."""
    return (("", "", transform),)
