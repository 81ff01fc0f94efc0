"""How an array of a published state dict corresponds to one of ours: what key tables are made of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError


class Transform(NamedTuple):
    """How the values of one array change: to ours, and back to theirs.

    Where several arrays correspond to one or several, each function takes as many as there are on its side
    and returns a tuple of as many as there are on the other, or the array if that is one.
    """

    to_ours: Callable
    to_theirs: Callable


class Rule(NamedTuple):
    """theirs: dotted name; ours: slashed path; arrays: (their suffix, our suffix, transform) of each.

    A suffix is a string, or a tuple of them for arrays that a transform joins or splits.
    """

    theirs: str
    ours: str
    arrays: tuple[tuple[str | tuple[str, ...], str | tuple[str, ...], Transform], ...]


class Format(NamedTuple):
    """How a library or a published repository writes a model.

    name: unique, such as "timm_vit". library: "official", "timm", "hf", "mmpretrain", ...
    family: of the backbone, "vit", "swin", "pvt_v2", "cmt", "convnext" or "mixmim".
    kind: "fastmim", "mae", "mixmim" or "simmim" for what was pre-trained with its head or decoder, else
      "classifier", a backbone that may have a head.
    buffers: functions of `export.buffers`, for what is written beside the parameters.
    unread: parts of names that carry nothing which a model needs to be told.
    signs: last parts of names that tell it from formats with otherwise the same names.
    """

    name: str
    library: str
    family: str
    kind: str
    table: tuple[Rule, ...]
    buffers: tuple[Callable, ...] = ()
    unread: tuple[str, ...] = ("relative_position_index", "attn_mask", "num_batches_tracked")
    signs: tuple[str, ...] = ()


def _square(x):
    """(side * side, n) -> (side, side, n)."""
    side = math.isqrt(len(x))
    if side**2 != len(x):
        raise UserError(f"{len(x)} positions make no square, which every published table of them is")
    return x.reshape(side, side, -1)


def _flat(x):
    """(h, w, n) -> (h * w, n)."""
    return x.reshape(-1, x.shape[-1])


def _pixels_last(x):
    """(..., 3 * size * size) of channels, rows and columns -> the same with channels last."""
    x = x.reshape(*x.shape[:-1], 3, math.isqrt(x.shape[-1] // 3), -1)
    return np.moveaxis(x, -3, -1).reshape(*x.shape[:-3], -1)


def _pixels_first(x):
    """The inverse of `_pixels_last`."""
    x = x.reshape(*x.shape[:-1], math.isqrt(x.shape[-1] // 3), -1, 3)
    return np.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)


SAME = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(np.transpose, np.transpose)  # Linear: (out, in) <-> (in, out)
OIHW = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
SQUARE = Transform(_square, _flat)  # a bias table: (side * side, heads) <-> (side, side, heads)
PIXEL = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))

# (1, 1 + N, D) <-> (h, w, D) and (1, D) of cls; published grids are square.
POSITIONS = Transform(
    lambda x: (_square(x[0, 1:]), x[0, :1]),
    lambda grid, cls: np.concatenate([cls, _flat(grid)])[None],
)
GRID_POSITIONS = Transform(lambda x: _square(x[0]), lambda x: _flat(x)[None])  # (1, N, D) <-> (h, w, D)
# (side * side + 3, heads) <-> (side, side, heads) and (3, heads): the last are of cls.
RELATIVE = Transform(
    lambda x: (_square(x[:-3]), x[-3:]),
    lambda table, cls: np.concatenate([_flat(table), cls]),
)
# Biases of queries and values <-> of queries, keys and values. That of keys changes nothing but rounding:
# it adds the same to every score of a query.
QUERY_VALUE = Transform(
    lambda query, value: np.concatenate([query, np.zeros_like(query), value]),
    lambda x: (x[: len(x) // 3], x[-(len(x) // 3) :]),
)
# A 1 x 1 convolution and a PixelShuffle <-> a linear layer, of 3 channels: outputs in the order of channel,
# row, column <-> row, column, channel.
SHUFFLED_KERNEL = Transform(
    lambda x: _pixels_last(x[:, :, 0, 0].T), lambda x: _pixels_first(x).T[:, :, None, None]
)
SHUFFLED_BIAS = Transform(_pixels_last, _pixels_first)


MIX_TOKEN = Transform(lambda x: x[:, None], lambda x: x[:, 0])  # (1, 1, D) <-> (1, 1, 1, D)

LINEAR = ((".weight", "/kernel", TRANSPOSE), (".bias", "/bias", SAME))
CONV = ((".weight", "/kernel", OIHW), (".bias", "/bias", SAME))
NORM = ((".weight", "/scale", SAME), (".bias", "/bias", SAME))


def array(transform=SAME):
    """A rule's arrays where it names a single one."""
    return (("", "", transform),)
