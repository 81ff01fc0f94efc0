"""One run per address: the living are refused, the dead replaced, and who was replaced stops."""

import json
import time

import fsspec
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.stores.store import Store
from fastmim_jax.train.remote.layout import LOCK
from fastmim_jax.train.remote.lock import BEATS_OF_SILENCE, RemoteLock

BEAT = 0.05


@pytest.fixture
def store():
    fsspec.filesystem("memory").store.clear()
    return Store("memory://b/run")


def test_a_living_run_is_refused_and_an_ended_one_is_not(store):
    first, lines = RemoteLock(store, BEAT), []
    first.acquire()
    with pytest.raises(
        UserError, match="memory://b/run is in use by process .* since 2.*another --workdir"
    ):
        RemoteLock(store, BEAT).acquire(lines.append)
    assert "waiting 0 s for a sign of life" in lines[0]
    first.release()
    second = RemoteLock(store, BEAT)
    second.acquire(lines.append)
    second.release()
    assert len(lines) == 1 and second.run == first.run and json.loads(store.read(LOCK))["ended"]


@pytest.mark.slow
def test_a_silent_run_is_replaced_and_knows(store):
    first = RemoteLock(store, 20 * BEAT)
    first.acquire()
    assert BEATS_OF_SILENCE * BEAT < 20 * BEAT
    second = RemoteLock(store, BEAT)
    second.acquire(lambda line: None)
    while not first.lost:
        time.sleep(BEAT)
    assert "was taken over by process" in first.lost and second.lost == ""
    first.release()
    second.release()


def test_a_dead_process_of_this_host_is_replaced_at_once(store):
    store.write(LOCK, json.dumps({"host": "h", "process": 1, "since": "", "run": "r"}).encode())
    lock = RemoteLock(store, 5.0, lambda holder: holder["process"] == 1)
    start = time.monotonic()
    lock._beat = BEAT  # but for the wait, which would be 30 s
    lock.acquire()
    assert time.monotonic() - start < 5 and lock.run == "r"
    lock.release()
