"""Rows of prepared records: the pixels of whole records, and never those of another place."""

import logging
import shutil

import numpy as np
import pytest

from fastmim_jax.data.crops import RandomCrops
from fastmim_jax.data.decode import decode
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.records.index import write_chunks
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420, from_rgb
from fastmim_jax.data.sources import open_source
from fastmim_jax.data.sources.record_rows import RecordRows, read_rows
from fastmim_jax.data.sources.records import RecordsSource
from helpers.prepared import write_records
from helpers.sweeps import sweep

SHAPES = [(13 + 5 * (i % 4), 40 - 3 * (i % 5), 3) for i in range(12)]
IMAGES = [np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i, shape in enumerate(SHAPES)]
BATCH = 4


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Folder with the same images as records of either layout."""
    root = tmp_path_factory.mktemp("records")
    for layout, convert in (("yuv420", from_rgb), ("raw", lambda image: image)):
        write_records(root / layout, [convert(image) for image in IMAGES], SHAPES, layout)
    return root


@pytest.mark.parametrize("layout", ["yuv420", "raw"])
def test_every_box_has_the_pixels_of_the_whole_record(paths, layout):
    source = open_source(paths / layout)
    assert (
        source.notices == ()
        and open_source(f"{paths / 'raw'}::{paths / 'yuv420'}").rows(20).shape == SHAPES[8]
    )
    for index in range(4):
        rows, image = read_rows(source, index), source[index]
        assert isinstance(rows, RecordRows) and read_rows([image], 0) is None
        assert rows.shape == image.shape and rows.layout == layout
        for top in range(image.shape[0]):
            for height in range(1, image.shape[0] - top + 1):
                part, box = rows.read((3, top, 7, height))
                assert (box[0], box[2], box[3]) == (3, 7, height)
                if layout == "raw":
                    assert np.array_equal(part[box[1] :], image[top : top + height])
                    continue
                first, end = top - box[1], top + height
                assert (
                    isinstance(part, Yuv420)
                    and first % 2 == 0
                    and np.array_equal(part.y, image.y[first:end])
                )
                for plane, all_rows in ((part.u, image.u), (part.v, image.v)):
                    assert np.array_equal(plane, all_rows[first // 2 : (end + 1) // 2])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_values_of_more_bits_become_the_same_pixels(tmp_path, dtype):
    values = [(np.random.default_rng(i).random((9, 8, 4)) * 900 - 100).astype(dtype) for i in range(2)]
    write_records(tmp_path / "x", values, [(9, 8, 4)] * 2, "raw", (0.0, 700.0), dtype)
    source = open_source(tmp_path / "x")
    part, box = source.rows(1).read((0, 2, 8, 5))
    assert isinstance(part, RawImage) and box == (0, 0, 8, 5)
    assert np.array_equal(decode(part, 4), decode(source[1], 4)[2:7])


def read(source, batches, layout, start=0, **options):
    options = dict(image_size=(16, 24), channels=3, batch_size=BATCH, seed=3, threads=2) | options
    with make_loader(source, layout=layout, start=start, **options) as loader:
        found = [next(loader) for _ in range(batches)]
    return {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def check_batches(path, monkeypatch, workers, views, per_crop):
    """Compare two epochs of batches, and a resumed one, with those of records that are read whole."""
    layout = {"yuv420": "yuv420", "raw": "rgb"}[path.name]
    options = dict(views_per_image=views, views_per_crop=per_crop)
    source, count = open_source(path), 2 * len(IMAGES) * views
    rows = read(source, count // BATCH, layout, workers=workers, **options)
    for epoch in range(2):  # nothing lost, nothing repeated
        index = rows["index"][epoch * count // 2 : (epoch + 1) * count // 2]
        assert sorted(index) == sorted([*range(len(IMAGES))] * views)
    assert_equal(read(source, 1, layout, 8, **options), {key: rows[key][8:12] for key in rows})
    monkeypatch.setattr(RecordsSource, "rows", lambda self, index: None)
    assert_equal(read(source, count // BATCH, layout, **options), rows)
    assert rows["num_undecodable"].max() == 0


@pytest.mark.parametrize("layout", ["yuv420", "raw"])
@pytest.mark.parametrize(
    ("views", "per_crop"), sweep([(1, 1), (2, 2), (3, 1), (4, 2)], [(1, 1), (4, 2)], pytest.mark.slow)
)
def test_batches_are_those_of_whole_records(paths, monkeypatch, layout, views, per_crop):
    check_batches(paths / layout, monkeypatch, 0, views, per_crop)


WORKERS = [("yuv420", 2, 1), ("raw", 1, 2), ("raw", 4, 1)]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("layout", "workers", "views"), sweep(WORKERS, WORKERS[:1]))
def test_worker_processes_read_the_same_rows(paths, monkeypatch, layout, workers, views):
    check_batches(paths / layout, monkeypatch, workers, views, 1)


def test_augmentation_draws_the_same_numbers(paths, monkeypatch):
    def augment(crop, rng):
        return crop ^ rng.integers(0, 256, crop.shape, np.uint8)

    source = open_source(paths / "raw")
    rows = read(source, 3, "rgb", augment=augment)
    monkeypatch.setattr(RecordsSource, "rows", lambda self, index: None)
    assert_equal(read(source, 3, "rgb", augment=augment), rows)


@pytest.fixture
def copy(paths, tmp_path):
    return shutil.copytree(paths / "raw", tmp_path / "copy")


@pytest.mark.slow
def test_a_wrong_position_is_never_read(copy, caplog):
    """Every record is read whole instead, and one warning says so."""
    source = open_source(copy)
    chunks = np.array(source._index.chunks)
    expected = read(source, 6, "rgb")
    for wrong in (np.roll(chunks, 1), chunks + 1, chunks + 2**40, -chunks, 0 * chunks):
        write_chunks(str(copy / "train"), wrong)
        source = open_source(copy)
        caplog.clear()
        found = [source.rows(index) for index in range(len(source))]
        assert not any(found) and len(caplog.records) <= 1
        assert_equal(read(source, 6, "rgb"), expected)
    write_chunks(str(copy / "train"), chunks + 1)
    with caplog.at_level(logging.WARNING, "fastmim_jax.data"):
        caplog.clear()
        source = open_source(copy)
        [source.rows(index) for index in range(len(source))]
    assert len(caplog.records) == 1 and "fastmim prepare --check" in caplog.text


def test_an_index_without_positions_and_a_file_of_another_size_are_told(copy):
    expected = read(open_source(copy), 3, "rgb")
    (copy / "train" / "chunks.npy").rename(copy / "chunks.npy")
    source = open_source(copy)
    assert "prepared without the positions" in source.notices[0] and source.rows(0) is None
    assert_equal(read(source, 3, "rgb"), expected)
    (copy / "chunks.npy").rename(copy / "train" / "chunks.npy")
    with open(copy / "train" / "00000-of-00002.array_record", "ab") as file:
        file.write(b"x")
    source = open_source(copy)
    assert "bytes, expected" in source.notices[0] and source.rows(0) is None


def test_rows_that_cannot_be_read_are_replaced_by_the_next_record(copy, monkeypatch):
    source = open_source(copy)
    crops = RandomCrops(
        source, lambda number: number, size=(8, 8), channels=3, seed=0, scale=(0.2, 1), ratio=(1, 1)
    )
    arrays = {name: np.zeros((3, *shape), dtype) for name, (shape, dtype) in crops.fields.items()}
    crops([1, 2, 3], arrays)
    expected = {name: array.copy() for name, array in arrays.items()}
    rows = RecordsSource.rows

    def broken(self, index):
        found = rows(self, index)
        if index == 1:
            found._start = 2**50
        return found

    monkeypatch.setattr(RecordsSource, "rows", broken)
    crops([1, 2, 3], arrays)
    assert arrays["num_undecodable"].tolist() == [1, 0, 0] and arrays["index"].tolist() == [1, 2, 3]
    assert arrays["label"][0] == source.label(1) and arrays["image"][0].any()  # the next of its class
    for name, array in arrays.items():
        np.testing.assert_array_equal(array[1:], expected[name][1:])
