"""How an array of a published state dict corresponds to one of ours: what key tables are made of."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """How the values of one array change: to ours, and back to theirs."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """theirs: dotted name; ours: slashed path; arrays: (their suffix, our suffix, transform) of each."""

    theirs: str
    ours: str
    arrays: tuple[tuple[str, str, Transform], ...]


SAME = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(np.transpose, np.transpose)  # Linear: (out, in) <-> (in, out)
OIHW = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
SQUARE = Transform(  # a bias table: (side * side, heads) <-> (side, side, heads)
    lambda x: x.reshape(math.isqrt(len(x)), -1, x.shape[1]), lambda x: x.reshape(-1, x.shape[-1])
)
PIXEL = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))

MIX_TOKEN = Transform(lambda x: x[:, None], lambda x: x[:, 0])  # (1, 1, D) <-> (1, 1, 1, D)

LINEAR = ((".weight", "/kernel", TRANSPOSE), (".bias", "/bias", SAME))
CONV = ((".weight", "/kernel", OIHW), (".bias", "/bias", SAME))
NORM = ((".weight", "/scale", SAME), (".bias", "/bias", SAME))


def array(transform=SAME):
    """A rule's arrays where it names a single one."""
    return (("", "", transform),)
