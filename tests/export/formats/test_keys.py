"""All key tables: unique names, exact inverses, and a format for every table."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.detectron2 import keys as detectron2
from fastmim_jax.export.formats.huggingface import keys as huggingface
from fastmim_jax.export.formats.keras_hub import keys as keras_hub
from fastmim_jax.export.formats.official import convnets, pvt_v2
from fastmim_jax.export.formats.official import keys as official
from fastmim_jax.export.formats.openmmlab import dense_keys
from fastmim_jax.export.formats.openmmlab import keys as openmmlab
from fastmim_jax.export.formats.rules import (
    GRID_POSITIONS,
    MIX_TOKEN,
    OIHW,
    PIXEL,
    POSITIONS,
    QUERY_VALUE,
    RELATIVE,
    SHUFFLED_KERNEL,
    TABLE,
    Rule,
)
from fastmim_jax.export.formats.timm import keys as timm
from fastmim_jax.export.formats.torchvision import keys as torchvision
from helpers.sweeps import thin

LIBRARIES = (official, timm, huggingface, torchvision, openmmlab, detectron2, keras_hub)
MODULES = [*LIBRARIES, convnets, pvt_v2, dense_keys]
TABLES = {
    f"{module.__name__.removeprefix('fastmim_jax.export.formats.')}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, tuple) and value and all(type(part) is Rule for part in value)
}
# One array of theirs that has two places in ours: the norm after ConvNeXt's mean over the grid, or before.
TWO_PLACES = {
    "torchvision_convnext": {"classifier.0.weight", "classifier.0.bias"},
    "mmpretrain_convnext": {"backbone.norm3.weight", "backbone.norm3.bias"},
}
# Shapes of their arrays that fit a transform; all others take any array of `Transform.ndim` axes.
SHAPES = {
    TABLE: (9, 2),
    RELATIVE: (9 + 3, 2),
    POSITIONS: (1, 1 + 9, 4),
    GRID_POSITIONS: (1, 9, 4),
    MIX_TOKEN: (1, 1, 4),
    PIXEL: (1, 3, 1, 1),
    SHUFFLED_KERNEL: (3 * 4, 5, 1, 1),
    OIHW: (2, 3, 4, 5),
    convnets.GRIDS: (2, 9, 4),
    torchvision.CHANNELS_FIRST: (5, 1, 1),
    dense_keys.POINTWISE: (6, 4, 1, 1),
}
BY_AXES = {None: (6, 4), 1: (12,), 2: (6, 8), 4: (2, 3, 4, 5)}


def listed(suffixes):
    return (suffixes,) if isinstance(suffixes, str) else suffixes


def correspondences(fmt):
    """All (their names, our names, transform) of a table, without repetitions."""
    return {
        (
            tuple(rule.theirs + suffix for suffix in listed(theirs)),
            tuple(rule.ours + suffix for suffix in listed(ours)),
            transform,
        )
        for rule in fmt.table
        for theirs, ours, transform in rule.arrays
    }


def names(fmt, side):
    """Their names (side 0) or ours (side 1), as often as they occur in `correspondences`."""
    return [name for found in correspondences(fmt) for name in found[side]]


def repeated(values):
    return {value for value, number in Counter(values).items() if number > 1}


@pytest.mark.parametrize("fmt", thin(FORMATS.values(), 9), ids=lambda fmt: fmt.name)
def test_a_published_name_has_one_meaning(fmt):
    assert repeated(names(fmt, 0)) == TWO_PLACES.get(fmt.name, set())


@pytest.mark.parametrize("fmt", thin(FORMATS.values(), 9), ids=lambda fmt: fmt.name)
def test_a_path_of_ours_is_written_to_one_name(fmt):
    """Except names of other versions of a library, which are read and never written."""
    twice = repeated(names(fmt, 1))
    if fmt.library == "hf":  # names of blocks in transformers 4 and 5
        twice = {path for path in twice if "/blocks/{}/" not in path}
    if fmt.name == "mmpretrain_vit":
        twice -= {"head/kernel", "head/bias"}
    assert not twice


def entries():
    """{an example name: (number of arrays on each side, transform)}, one for every transform."""
    found = {}
    for fmt in FORMATS.values():
        for rule in fmt.table:
            for theirs, ours, transform in rule.arrays:
                example = f"{fmt.name}:{rule.theirs}{listed(theirs)[0]}"
                found.setdefault(transform, (example, len(listed(theirs)), len(listed(ours)), transform))
    return [pytest.param(*rest, id=example) for example, *rest in found.values()]


@pytest.mark.parametrize(("num_theirs", "num_ours", "transform"), entries())
def test_transforms_are_exact_inverses(num_theirs, num_ours, transform):
    def as_tuple(values, count):
        assert count == 1 or len(values) == count
        return values if count > 1 else (values,)

    rng = np.random.default_rng(0)
    shape = SHAPES[transform] if transform in SHAPES else BY_AXES[transform.ndim]
    theirs = tuple(rng.normal(size=shape) for _ in range(num_theirs))
    ours = as_tuple(transform.to_ours(*theirs), num_ours)
    back = as_tuple(transform.to_theirs(*ours), num_theirs)
    again = as_tuple(transform.to_ours(*back), num_ours)
    for found, expected in zip((*back, *again), (*theirs, *ours), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert sum(x.size for x in ours) == sum(x.size for x in theirs) * (
        1.5 if transform == QUERY_VALUE else 1
    )


def test_equal_shapes_on_both_sides_are_equal_arrays_or_transposed():
    """A square kernel fits either way round, so that only its values show the direction."""
    kernel = np.arange(9.0).reshape(3, 3)
    (_, _, transform), (_, _, bias) = official.LINEAR
    np.testing.assert_array_equal(transform.to_ours(kernel), [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
    np.testing.assert_array_equal(bias.to_ours(kernel[0]), kernel[0])
    convolution = np.arange(16.0).reshape(2, 2, 2, 2)
    assert OIHW.to_ours(convolution)[0, 1, 1, 0] == convolution[0, 1, 0, 1]


@pytest.mark.parametrize("name", thin(TABLES, 9))
def test_every_table_belongs_to_a_format(name):
    """A format has all of its rules, perhaps with a prefix to their names."""

    def contains(fmt, rule):
        same = (x for x in fmt.table if (x.ours, x.arrays) == (rule.ours, rule.arrays))
        return any(x.theirs == rule.theirs or x.theirs.endswith(f".{rule.theirs}") for x in same)

    assert any(all(contains(fmt, rule) for rule in TABLES[name]) for fmt in FORMATS.values())


def test_every_format_is_registered_under_a_name_of_its_own():
    declared = [*chain(*(module.FORMATS for module in LIBRARIES)), *dense_keys.MMDET, *dense_keys.MMSEG]
    assert not repeated(fmt.name for fmt in declared)
    assert {fmt.name: fmt for fmt in declared} == FORMATS
