"""The stream is fixed by the seed: not by workers, processes, restarts or bad files."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

import fastmim_jax
from fastmim_jax.data.loader import TRIES, make_loader, pick_workers
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.errors import UserError

N, BATCH = 23, 8  # an epoch that no batch divides
KEYS = {"image", "flip", "index", "bad", "label"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """23 JPEGs of noise in two classes, some wide, some high, one broken."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = root / f"class{i % 2}"
        folder.mkdir(exist_ok=True)
        size = (30 + i, 50 - i, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{i:02}.jpg")
    (root / "class0" / "04.jpg").write_text("<html>")
    return FolderSource(root)


def colours(root, count, bad=()):
    """One-colour PNGs: the colour of a crop tells which record it was cut from."""
    for i in range(count):
        path = root / f"{i:03}.png"
        if i in bad:
            path.write_bytes(b"")
        else:
            Image.new("RGB", (9, 7), (i + 1, 0, 0)).save(path)
    return FolderSource(root)


def take(source, batches, **options):
    """-> the rows of the first batches, one dict per row."""
    options = {"image_size": (12, 16), "channels": 3, "batch_size": BATCH, "seed": 5} | options
    rows = len(options["rows"]) if "rows" in options else options["batch_size"]
    result = []
    with make_loader(source, threads=2, **options) as loader:
        for _ in range(batches):
            batch = next(loader)
            assert set(batch) == KEYS and all(len(batch[key]) == rows for key in KEYS)
            result += [{key: batch[key][i] for key in batch} for i in range(rows)]
    return result


def same(rows, others):
    return len(rows) == len(others) and all(
        np.array_equal(row[key], other[key])
        for row, other in zip(rows, others, strict=True)
        for key in KEYS
    )


@pytest.fixture(scope="module")
def stream(photos):
    """The reference: the first 96 positions, 4 epochs, read with no workers."""
    return take(photos, 12)


def test_batches(photos):
    with make_loader(photos, image_size=(12, 16), channels=1, batch_size=4, seed=0) as loader:
        batch = next(loader)
    kinds = {key: (array.shape, array.dtype.name) for key, array in batch.items()}
    assert kinds == {
        "image": ((4, 12, 16, 1), "uint8"),
        "flip": ((4,), "bool"),
        "index": ((4,), "int64"),
        "bad": ((4,), "int32"),
        "label": ((4,), "int32"),
    }
    assert all(type(array) is np.ndarray and array.flags.writeable for array in batch.values())


def test_epochs_are_permutations(stream):
    index = np.array([row["index"] for row in stream])
    epochs = [index[i * N : (i + 1) * N].tolist() for i in range(4)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != list(range(N))


def test_each_epoch_has_other_crops(stream):
    for number in (0, 11):
        crops = {row["image"].tobytes() for row in stream if row["index"] == number}
        assert len(crops) == 4


def test_flips_and_labels(stream, photos):
    flips = np.mean([row["flip"] for row in stream])
    assert 0.3 < flips < 0.7
    for row in stream:
        assert row["label"] == photos.label((row["index"] + row["bad"]) % N)


def test_another_seed_is_another_stream(photos, stream):
    other = take(photos, 3, seed=6)
    assert [r["index"] for r in other] != [r["index"] for r in stream[:24]]
    assert same(take(photos, 3, seed=5), stream[:24])


def test_without_shuffling(photos):
    rows = take(photos, 6, shuffle=False)
    assert [row["index"] for row in rows] == [i % N for i in range(48)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(photos, stream, workers):
    assert same(take(photos, 6, workers=workers), stream[:48])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "owned",
    [
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[0, 5], [1, 4], [2, 7], [3, 6]],
        [[0, 1, 2], [3, 4, 5, 6, 7]],
    ],
)
@pytest.mark.parametrize("start", [0, 13])
def test_processes_do_not_change_the_stream(photos, stream, owned, start):
    for rows in owned:
        expected = [stream[start + step * BATCH + row] for step in range(5) for row in rows]
        assert same(take(photos, 5, rows=rows, start=start), expected)


def test_workers_and_processes_and_restart_at_once(photos, stream):
    rows, start = [1, 2, 6], 27
    expected = [stream[start + step * BATCH + row] for step in range(4) for row in rows]
    assert same(take(photos, 4, rows=rows, start=start, workers=2), expected)


@pytest.mark.parametrize("start", [8, 3, N, N + 6, 2 * N + 1])
@pytest.mark.parametrize("batch_size", [8, 5])
def test_restart_anywhere(photos, stream, start, batch_size):
    rows = take(photos, 3, start=start, batch_size=batch_size)
    assert same(rows, stream[start : start + 3 * batch_size])


@pytest.mark.parametrize("batch_size", [1, 7, 67, 96])  # 67 is one chunk, 96 is two
def test_batch_size_does_not_change_the_stream(photos, stream, batch_size):
    assert same(take(photos, 1, batch_size=batch_size), stream[:batch_size])


def test_a_start_far_away(photos):
    start = 10**12 + 7
    near, far = take(photos, 2, start=start), take(photos, 1, start=start + BATCH)
    assert same(near[BATCH:], far)


# Records that cannot be decoded


def colour_of(row):
    values = np.unique(row["image"][..., 0])
    assert len(values) == 1
    return int(values[0])


def test_bad_records_are_replaced_by_the_next_good_one(tmp_path):
    source = colours(tmp_path, 10, bad={2, 5, 6, 7, 9})
    expected = {0: 0, 1: 0, 2: 1, 3: 0, 4: 0, 5: 3, 6: 2, 7: 1, 8: 0, 9: 1}  # 9 wraps to 0
    for workers in (0, 1):
        rows = take(source, 3, workers=workers)
        assert {int(r["index"]) for r in rows} == set(range(10))
        for row in rows:
            assert row["bad"] == expected[int(row["index"])]
            assert colour_of(row) == (row["index"] + row["bad"]) % 10 + 1


def test_neighbours_of_a_bad_record_stay_as_they_were(tmp_path):
    rows = take(colours(tmp_path, 10), 2)
    (tmp_path / "004.png").write_bytes(b"")
    changed = take(FolderSource(tmp_path), 2)
    for before, after in zip(rows, changed, strict=True):
        assert before["index"] == after["index"] and before["flip"] == after["flip"]
        assert (before["index"] == 4) == (after["bad"] == 1) == (not same([before], [after]))


def test_all_records_bad(tmp_path):
    for row in take(colours(tmp_path, 3, bad={0, 1, 2}), 1):
        assert row["bad"] == 3 and row["label"] == -1 and not row["image"].any()


def test_only_so_many_successors_are_tried(tmp_path):
    source = colours(tmp_path, TRIES + 6, bad=range(TRIES + 5))
    rows = take(source, 1, shuffle=False)
    assert [int(row["bad"]) for row in rows] == [64] * 6 + [63, 62][: BATCH - 6]
    assert not rows[5]["image"].any() and colour_of(rows[6]) == TRIES + 6


def test_a_file_that_vanishes_while_training(tmp_path):
    source = colours(tmp_path, 6)
    (tmp_path / "003.png").unlink()
    assert {int(r["index"]) for r in take(source, 1) if r["bad"]} == {3}


# Input that makes no stream


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": [2, 1]}, "ascending"),
        ({"rows": [0, 8]}, "positions from 0 to 7"),
        ({"rows": []}, "at least one"),
        ({"seed": -1}, "seed=-1"),
        ({"start": -1}, "start=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_refused_numbers(photos, options, message):
    with pytest.raises(UserError, match=message):
        take(photos, 1, **options)


def test_pick_workers():
    assert [pick_workers(n) for n in (1, 2, 4, 5, 8, 12, 48, 96, 224)] == [*(0, 0, 0, 2, 3, 4, 16, 16, 16)]


# Ends


def test_closed_means_closed(photos):
    loader = make_loader(photos, image_size=(8, 8), channels=3, batch_size=4, seed=0)
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


def test_a_killed_worker_is_an_exception(photos):
    options = {"image_size": (8, 8), "channels": 3, "batch_size": 4, "seed": 0}
    with make_loader(photos, workers=2, **options) as loader:
        next(loader)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="worker process died"):
            for _ in range(1000):
                next(loader)
        with pytest.raises(RuntimeError, match="closed"):  # and not a quiet StopIteration
            next(loader)
    assert not multiprocessing.active_children()


SCRIPT = """
    import multiprocessing, signal, sys
    from fastmim_jax.data.loader import make_loader
    from fastmim_jax.data.sources import FolderSource
    if __name__ == "__main__":
        caught = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: caught.append(number))
        loader = make_loader(FolderSource(sys.argv[1]), image_size=(8, 8), channels=3,
                             batch_size=8, seed=0, workers=2, threads=1)
        batch = next(loader)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        while sys.argv[2] != "end" and not caught:
            next(loader)
        sys.exit(sum(caught))
"""


@pytest.mark.parametrize(
    "event, status",
    [("end", 0), (signal.SIGINT, 2), (signal.SIGTERM, 15), (signal.SIGKILL, -9)],
)
def test_workers_end_quietly_with_their_parent(photos, tmp_path, event, status):
    """Signals go to the whole process group, as a terminal or a scheduler sends them."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    root = pathlib.Path(fastmim_jax.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, script, photos.path, str(event)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if event == signal.SIGKILL:
        process.kill()
    elif event != "end":
        os.killpg(process.pid, event)
    try:
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == status
    if event != signal.SIGKILL:
        assert errors == ""
    deadline = time.time() + 20
    while any(map(alive, workers)) and time.time() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
