"""A loader ends when closed and with its parent; workers that die are replaced."""

import itertools
import logging
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
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.errors import UserError
from helpers.sweeps import sweep

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(5):
        Image.new("RGB", (30 + i, 50 - i)).save(root / f"{i}.jpg")
    return FolderSource(root)


def test_a_closed_loader_raises(photos):
    loader = make_loader(photos, image_size=(8, 8), channels=3, batch_size=4, seed=0)
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


OPTIONS = {"image_size": (8, 8), "channels": 3, "batch_size": 16, "seed": 0, "threads": 2}


@pytest.mark.parametrize("workers", sweep([1, 2], [2]))
def test_a_killed_worker_is_replaced(photos, workers, caplog, monkeypatch):
    """One is killed in the middle of the stream: every batch equals that of no worker."""
    monkeypatch.setattr(logging.getLogger("fastmim_jax"), "propagate", True)
    with make_loader(photos, **OPTIONS) as loader:
        expected = list(itertools.islice(loader, 20))
    with make_loader(photos, workers=workers, **OPTIONS) as loader:
        for step, batch in enumerate(expected):
            if step == 2:
                killed = multiprocessing.active_children()[0].pid
                os.kill(killed, signal.SIGKILL)
            found = next(loader)
            assert batch.keys() == found.keys()
            assert all(np.array_equal(found[name], batch[name]) for name in batch)
    assert not multiprocessing.active_children()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"data worker {killed} on ")
    assert "with exit code -9 (SIGKILL); another one reads its rows again (2 of 3 restarts left)" in line
    assert "--config.run.workers=N" in line


def test_too_many_killed_workers_end_the_loader_in_a_sentence(photos):
    with make_loader(photos, workers=1, max_worker_restarts=0, **OPTIONS) as loader:
        next(loader)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="-9 .SIGKILL., after 0 that were replaced.*fewer workers"):
            list(itertools.islice(loader, 1000))
        with pytest.raises(RuntimeError, match="closed"):  # and not StopIteration
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
    ("event", "status"),
    sweep(
        [("end", 0), (signal.SIGINT, 2), (signal.SIGTERM, 15), (signal.SIGKILL, -9)],
        [("end", 0), (signal.SIGKILL, -9)],
    ),
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
    for pid in (process.pid, *workers):  # neither semaphores nor segments, which would outlive a kill
        assert "/dev/shm/" not in maps(pid)
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


def maps(pid):
    path = pathlib.Path(f"/proc/{pid}/maps")  # Linux alone
    return path.read_text() if path.exists() else ""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
