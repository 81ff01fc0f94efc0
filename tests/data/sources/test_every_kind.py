"""The same images in every kind of data set: the same records, batches and resumed batches."""

import os
import pickle
import random

import numpy as np
import pytest

from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import Source, labelled, open_source, split_names
from helpers.source_files import CLASSES, WRITERS, make_items
from helpers.sweeps import sweep

ITEMS = make_items()
BATCH = 4
SLOW = {"arrow", "parquet", "tar"}  # importing their libraries takes a second
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in WRITERS]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function from a kind to its source, each written once."""
    sources = {}

    def open_kind(kind):
        if kind not in sources:
            root = tmp_path_factory.mktemp(kind)
            sources[kind] = open_source(WRITERS[kind](root, ITEMS))
        return sources[kind]

    return open_kind


def read(source, batches, start=0, workers=0):
    """The first batches of a loader, from a position of the stream on."""
    options = dict(image_size=(16, 16), channels=3, batch_size=BATCH, seed=3, threads=2)
    with make_loader(source, start=start, workers=workers, **options) as loader:
        found = [next(loader) for _ in range(batches)]
    return {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_back(kind, opened):
    source = opened(kind)
    assert isinstance(source, Source) and len(source) == len(ITEMS) and labelled(source) is source
    names = CLASSES if kind != "prepared" else ("a", "b")  # the helper numbers its classes in turn
    assert source.classes == names and source.notices == ()
    for copy in (source, pickle.loads(pickle.dumps(source)), pickle.loads(pickle.dumps(source))):
        for i in random.Random(kind).sample(range(len(ITEMS)), len(ITEMS)):
            assert copy[i] == ITEMS[i].data
            assert copy.label(i) == (ITEMS[i].label if kind != "prepared" else i % 2)
            assert (
                os.path.splitext(os.path.basename(ITEMS[i].name))[0] in copy.name(i) or kind == "prepared"
            )
        assert copy[-1] == ITEMS[-1].data and copy.name(-1) == copy.name(len(ITEMS) - 1)
        assert repr(copy) == repr(source) and f"{len(ITEMS)} " in repr(copy)
    for method in (source.__getitem__, source.name):
        with pytest.raises(IndexError):
            method(len(ITEMS))
    assert len({source.name(i) for i in range(len(ITEMS))}) == len(ITEMS)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_folder_and_of_a_resumed_run(kind, opened):
    epochs, start = 2 * len(ITEMS), random.Random(kind).randrange(1, 2 * len(ITEMS))
    batches = -(-epochs // BATCH) + 1
    rows = read(opened(kind), batches)
    expected = read(opened("folder"), batches)
    for key in ("image", "flip", "index", "num_undecodable"):
        np.testing.assert_array_equal(rows[key], expected[key])
    for epoch in range(2):  # nothing lost, nothing repeated
        index = rows["index"][epoch * len(ITEMS) : (epoch + 1) * len(ITEMS)]
        assert sorted(index) == list(range(len(ITEMS)))
    resumed = read(opened(kind), 1, start)
    for key in rows:
        np.testing.assert_array_equal(resumed[key], rows[key][start : start + BATCH])


WORKERS = [(kind, workers) for kind in WRITERS for workers in (1, 2, 4)]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("kind", "workers"), sweep(WORKERS, [("zip", 2)]))
def test_worker_processes_read_the_same(kind, workers, opened):
    """Two epochs are those without processes, and so a run resumes with any number of them."""
    batches = 2 * len(ITEMS) // BATCH
    rows, expected = read(opened(kind), batches, workers=workers), read(opened("folder"), batches)
    for key in ("image", "flip", "index", "num_undecodable"):
        np.testing.assert_array_equal(rows[key], expected[key])
    labels = [opened(kind).label(index) for index in rows["index"]]
    np.testing.assert_array_equal(rows["label"], labels)
    resumed = read(opened(kind), 2, 3 * BATCH)
    for key in rows:
        np.testing.assert_array_equal(resumed[key], rows[key][3 * BATCH : 5 * BATCH])


@pytest.mark.slow
def test_splits_of_tables(opened, tmp_path):
    assert split_names(WRITERS["arrow"](tmp_path, ITEMS)) == ("train", "test")
    assert [item.data for item in ITEMS[:3]] == list(open_source(tmp_path / "saved", "test"))
