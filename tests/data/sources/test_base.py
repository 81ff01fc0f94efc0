"""Labels and splits that sources share, and their sentences."""

import numpy as np
import pytest

from fastmim_jax.data.sources.base import LabelledSource, count_records, refuse_split
from fastmim_jax.data.sources.splits import only_splits
from fastmim_jax.errors import UserError


def test_labels_in_an_array():
    source = LabelledSource("set", ("cat", "dog"), np.array([0, 1, -1], np.int32))
    assert len(source) == 3 and [source.label(i) for i in (0, 1, 2, -1)] == [0, 1, -1, -1]
    assert source.name(-1) == "set[2]" and count_records(source) == "3 images, 2 classes"
    assert source.label_problem().startswith(
        "1 of 3 records of set have no label, such as set[2]; expected"
    )
    for method in (source.name, source.label):
        with pytest.raises(IndexError):
            method(3)
    assert (
        LabelledSource("set", (), np.full(1, -1)).label_problem().startswith("set has no labels; expected")
    )
    single = LabelledSource("set", ("cat",), np.zeros(2, np.int32))
    assert single.label_problem() == "set has a single class, cat; expected at least 2."
    assert repr(single) == "LabelledSource('set', 2 images, 1 class)"
    assert LabelledSource("set", ("a", "b"), np.array([0, 1])).label_problem() is None


def test_splits():
    assert only_splits(("train", "val")) and not only_splits(()) and not only_splits(("train", "cat"))
    with pytest.raises(UserError, match="'test' was asked for, but set holds train, val; expected x."):
        refuse_split("test", "set", ("train", "val"), "x")
    with pytest.raises(UserError, match="set is not divided into splits; expected x."):
        refuse_split("test", "set", (), "x")
