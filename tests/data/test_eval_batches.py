"""A pass reads every record once, for any batch size, processes, workers and undecodable files."""

import functools
import multiprocessing
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.augment import center_crop
from fastmim_jax.data.decode import decode
from fastmim_jax.data.eval_batches import make_eval_batches
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.errors import UserError

SIZE = (6, 9)
KEYS = {"image", "label", "index", "valid", "undecodable", "doubtful"}
BROKEN = {3, 4, 10}


@functools.cache
def photo(number):
    """(H, W, 3) uint8 of noise, wide or tall."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (10 + number, 22 - number, 3), np.uint8)


def photos(root, count, broken=()):
    """PNGs in three classes, numbered by their index in the source."""
    for i in range(count):
        path = root / f"class{i * 3 // count}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        if i in broken:
            path.write_text("<html>")
        else:
            Image.fromarray(photo(i)).save(path)
    return FolderSource(root)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("photos"), 13, BROKEN)


def read_pass(source, batch_size, **options):
    """Return the batches of a pass, after checks of their number and size."""
    options = {"image_size": SIZE, "channels": 3, "threads": 2} | options
    with make_eval_batches(source, batch_size=batch_size, **options) as batches:
        result = list(batches)
        assert len(result) == len(batches)
        assert next(batches, "the end") == "the end"
    rows = len(options.get("rows", range(batch_size)))
    for batch in result:
        assert set(batch) == KEYS and all(len(batch[key]) == rows for key in KEYS)
    return result


def joined(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in KEYS}


def same(batches, others):
    return len(batches) == len(others) and all(
        np.array_equal(one[key], other[key])
        for one, other in zip(batches, others, strict=True)
        for key in KEYS
    )


def test_shapes_and_dtypes_of_a_batch(source):
    batch = read_pass(source, 13, channels=1)[0]
    kinds = {key: (array.shape, array.dtype.name) for key, array in batch.items()}
    assert kinds == {
        "image": ((13, 6, 9, 1), "uint8"),
        "label": ((13,), "int32"),
        "index": ((13,), "int64"),
        "valid": ((13,), "bool"),
        "undecodable": ((13,), "bool"),
        "doubtful": ((13,), "bool"),
    }


@pytest.mark.parametrize("resize", [None, 6, 8])
def test_images_are_centre_crops(source, resize):
    rows = joined(read_pass(source, 5, resize=resize))
    for image, index in zip(rows["image"][:13], rows["index"][:13], strict=True):
        if index in BROKEN:
            assert not image.any()
        else:
            assert (image == center_crop(decode(source[index]), SIZE, resize)).all()
            assert image.std() > 1


@pytest.mark.parametrize("batch_size", [5, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_record_once(tmp_path, batch_size, processes):
    """For each number of records up to 2 batches + 1, the rows of all processes add up to the records."""
    source = photos(tmp_path, 2 * batch_size + 1)
    owned = np.array_split(np.arange(batch_size), processes)
    for n in range(1, 2 * batch_size + 2):
        parts = [read_pass(source, batch_size, rows=own, count=n) for own in owned]
        assert {len(part) for part in parts} == {-(-n // batch_size)}
        rows = joined([joined(step) for step in zip(*parts, strict=True)])
        padding = -n % batch_size
        assert rows["index"].tolist() == [*range(n), *[-1] * padding]
        assert rows["valid"].tolist() == [True] * n + [False] * padding
        assert rows["label"].tolist() == [*map(source.label, range(n)), *[-1] * padding]
        assert not rows["undecodable"].any() and not rows["image"][n:].any()
        for i in range(n):
            assert (rows["image"][i] == center_crop(photo(i), SIZE)).all()


def test_a_batch_of_several_chunks(source):
    """136 rows are read as four chunks of 34."""
    records = np.arange(200) % 13
    rows = joined(read_pass(source, 136, records=records))
    assert rows["index"].tolist() == [*records, *[-1] * 72]


def test_undecodable_records_are_reported_and_not_replaced(source):
    rows = joined(read_pass(source, 8))
    assert set(rows["index"][rows["undecodable"]]) == BROKEN and rows["undecodable"].sum() == len(BROKEN)
    assert rows["valid"].tolist() == [i not in BROKEN and i < 13 for i in range(16)]
    assert (rows["label"][~rows["valid"]] == -1).all() and not rows["image"][~rows["valid"]].any()
    assert rows["label"][rows["valid"]].tolist() == [source.label(i) for i in range(13) if i not in BROKEN]


def test_a_deleted_file_is_undecodable(tmp_path):
    source = photos(tmp_path, 4)
    (tmp_path / "class0" / "01.png").unlink()
    batch = read_pass(source, 4)[0]
    assert batch["undecodable"].tolist() == [False, True, False, False]


def test_all_undecodable(tmp_path):
    (batch,) = read_pass(photos(tmp_path, 3, range(3)), 4)
    assert batch["undecodable"].tolist() == [True, True, True, False] and not batch["valid"].any()


@pytest.mark.slow
def test_workers_do_not_change_the_pass(source):
    """Two chunks to read, fewer than the three workers."""
    assert same(read_pass(source, 8, rows=[0, 1, 6], workers=3), read_pass(source, 8, rows=[0, 1, 6]))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("records", [[12, 0, 5, 5], np.array([7], np.uint8), range(4, 9)])
def test_chosen_records_in_their_order(source, records):
    rows = joined(read_pass(source, 3, records=records))
    n = len(records)
    everything = joined(read_pass(source, 13))
    assert rows["index"][:n].tolist() == list(records) and (rows["index"][n:] == -1).all()
    for key in KEYS:
        assert (rows[key][:n] == everything[key][list(records)]).all()


def test_arguments_out_of_range(source):
    for options, message in [
        ({"records": []}, "No record"),
        ({"count": 0}, "No record"),
        ({"count": -1}, "No record"),
    ]:
        with pytest.raises(UserError, match=message):
            read_pass(source, **{"batch_size": 4} | options)
    for options, message in [
        ({"rows": [2, 1]}, "ascending"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"resize": 5}, "resize=5 is smaller than the crop, expected at least 6"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_pass(source, **{"batch_size": 4} | options)
    for records in ([-1], [0, 13], [0.5], [[1]]):
        with pytest.raises(ValueError, match="records"):
            read_pass(source, 4, records=records)


def test_no_thread_is_left(source):
    before = set(threading.enumerate())
    for taken in (0, 1, 4):  # of 4 batches
        batches = make_eval_batches(source, image_size=SIZE, channels=3, batch_size=4)
        for _ in range(taken):
            next(batches)
        assert set(threading.enumerate()) - before
        batches.close()
        batches.close()
        deadline = time.time() + 10  # threads end asynchronously
        while set(threading.enumerate()) - before and time.time() < deadline:
            time.sleep(0.02)
        assert not set(threading.enumerate()) - before
        if taken < 4:
            with pytest.raises(RuntimeError, match="closed"):
                next(batches)
