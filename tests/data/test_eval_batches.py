"""A pass shows every record once, whatever the batch, the processes, the workers and bad files."""

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
KEYS = {"image", "label", "index", "valid", "undecodable"}
BAD = {3, 4, 10}


@functools.cache
def photo(number):
    """(H, W, 3) uint8 of noise, wide or high."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (10 + number, 22 - number, 3), np.uint8)


def photos(root, count, bad=()):
    """PNGs in three classes; their numbers are their places in the source."""
    for i in range(count):
        path = root / f"class{i * 3 // count}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        if i in bad:
            path.write_text("<html>")
        else:
            Image.fromarray(photo(i)).save(path)
    return FolderSource(root)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("photos"), 13, BAD)


def run(source, batch_size, **options):
    """-> the batches of a pass, checked to be as many as it says and of equal size."""
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


def test_what_a_batch_holds(source):
    batch = run(source, 13, channels=1)[0]
    kinds = {key: (array.shape, array.dtype.name) for key, array in batch.items()}
    assert kinds == {
        "image": ((13, 6, 9, 1), "uint8"),
        "label": ((13,), "int32"),
        "index": ((13,), "int64"),
        "valid": ((13,), "bool"),
        "undecodable": ((13,), "bool"),
    }


@pytest.mark.parametrize("resize", [None, 6, 8])
def test_images_are_centre_crops(source, resize):
    rows = joined(run(source, 5, resize=resize))
    for image, index in zip(rows["image"][:13], rows["index"][:13], strict=True):
        if index in BAD:
            assert not image.any()
        else:
            assert (image == center_crop(decode(source[index]), SIZE, resize)).all()
            assert image.std() > 1


@pytest.mark.parametrize("batch_size", [5, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_record_once(tmp_path, batch_size, processes):
    """For each number of records up to two batches and one; what the processes see adds up."""
    whole_source = photos(tmp_path, 2 * batch_size + 1)
    owned = np.array_split(np.arange(batch_size), processes)
    for n in range(1, 2 * batch_size + 2):
        parts = [run(whole_source, batch_size, rows=rows, count=n) for rows in owned]
        assert {len(part) for part in parts} == {-(-n // batch_size)}
        whole = joined([joined(step) for step in zip(*parts, strict=True)])
        padding = -n % batch_size
        assert whole["index"].tolist() == [*range(n), *[-1] * padding]
        assert whole["valid"].tolist() == [True] * n + [False] * padding
        assert whole["label"].tolist() == [*map(whole_source.label, range(n)), *[-1] * padding]
        assert not whole["undecodable"].any() and not whole["image"][n:].any()
        for i in range(n):
            assert (whole["image"][i] == center_crop(photo(i), SIZE)).all()


def test_a_batch_in_many_pieces(source):
    """136 rows are read as four pieces of 34."""
    records = np.arange(200) % 13
    rows = joined(run(source, 136, records=records))
    assert rows["index"].tolist() == [*records, *[-1] * 72]


def test_bad_records_are_told_and_not_replaced(source):
    rows = joined(run(source, 8))
    assert set(rows["index"][rows["undecodable"]]) == BAD and rows["undecodable"].sum() == len(BAD)
    assert rows["valid"].tolist() == [i not in BAD and i < 13 for i in range(16)]
    assert (rows["label"][~rows["valid"]] == -1).all() and not rows["image"][~rows["valid"]].any()
    assert rows["label"][rows["valid"]].tolist() == [source.label(i) for i in range(13) if i not in BAD]


def test_a_file_that_vanished_is_bad(tmp_path):
    source = photos(tmp_path, 4)
    (tmp_path / "class0" / "01.png").unlink()
    batch = run(source, 4)[0]
    assert batch["undecodable"].tolist() == [False, True, False, False]


def test_all_bad(tmp_path):
    (batch,) = run(photos(tmp_path, 3, range(3)), 4)
    assert batch["undecodable"].tolist() == [True, True, True, False] and not batch["valid"].any()


def test_workers_do_not_change_the_pass(source):
    """Two pieces to read, so that a third worker would have nothing to do."""
    assert same(run(source, 8, rows=[0, 1, 6], workers=3), run(source, 8, rows=[0, 1, 6]))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("records", [[12, 0, 5, 5], np.array([7], np.uint8), range(4, 9)])
def test_chosen_records_in_their_order(source, records):
    rows = joined(run(source, 3, records=records))
    n = len(records)
    everything = joined(run(source, 13))
    assert rows["index"][:n].tolist() == list(records) and (rows["index"][n:] == -1).all()
    for key in KEYS:
        assert (rows[key][:n] == everything[key][list(records)]).all()


def test_refused(source):
    for options, message in [
        ({"records": []}, "No record"),
        ({"count": 0}, "No record"),
        ({"count": -1}, "No record"),
        ({"rows": [2, 1]}, "ascending"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"resize": 5}, "resize=5: expected .* at least that of the crop, 6"),
    ]:
        with pytest.raises(UserError, match=message):
            run(source, **{"batch_size": 4} | options)
    for records in ([-1], [0, 13], [0.5], [[1]]):
        with pytest.raises(ValueError, match="records"):
            run(source, 4, records=records)


def test_no_thread_is_left(source):
    before = set(threading.enumerate())
    for taken in (0, 1, 4):  # of 4 batches
        batches = make_eval_batches(source, image_size=SIZE, channels=3, batch_size=4)
        for _ in range(taken):
            next(batches)
        assert set(threading.enumerate()) - before
        batches.close()
        batches.close()
        deadline = time.time() + 10  # they end on their own time
        while set(threading.enumerate()) - before and time.time() < deadline:
            time.sleep(0.02)
        assert not set(threading.enumerate()) - before
        if taken < 4:
            with pytest.raises(RuntimeError, match="closed"):
                next(batches)
