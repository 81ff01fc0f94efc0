"""Chunks are written to their place; the shared ring never overwrites a chunk that is not received."""

import pickle
import threading

import numpy as np
import pytest

from fastmim_jax.data.batch_memory import LocalBatches, SharedBatches

FIELDS = {"image": ((3, 5), np.dtype(np.uint8)), "index": ((), np.dtype(np.int64))}
CHUNKS, SIZE = 2, 3


def write(memory, number):
    arrays = memory.chunk(number)
    arrays["image"][...], arrays["index"][...] = number, np.arange(SIZE) + 10 * number


def check(batch, step):
    assert batch["image"].shape == (CHUNKS * SIZE, 3, 5)
    expected = [10 * number + row for number in (2 * step, 2 * step + 1) for row in range(SIZE)]
    assert batch["index"].tolist() == expected
    assert (batch["image"] == (batch["index"] // 10)[:, None, None]).all()


def test_threads_write_to_the_batch_itself():
    memory = LocalBatches(FIELDS, CHUNKS, SIZE)
    for number in (1, 0, 2, 3):
        write(memory, number)
    for step in range(2):
        batch = memory.batch(step)
        memory.receive(2 * step), memory.receive(2 * step + 1)
        check(batch, step)
    with pytest.raises(TypeError, match="another"):
        pickle.dumps(memory)


def test_a_worker_writes_to_the_same_memory_and_waits_while_it_is_full():
    memory = SharedBatches(FIELDS, CHUNKS, SIZE, slots=3)
    worker = pickle.loads(pickle.dumps(memory))
    for number in range(3):
        write(worker, number)
    late = threading.Thread(target=write, args=(worker, 3))
    late.start()
    late.join(timeout=0.1)
    assert late.is_alive()
    for step in range(2):
        batch = memory.batch(step)
        memory.receive(2 * step)
        late.join()
        memory.receive(2 * step + 1)
        check(batch, step)
    memory.close()


def test_a_waiting_worker_ends_when_the_loader_closes():
    memory = SharedBatches(FIELDS, CHUNKS, SIZE, slots=1)
    worker = pickle.loads(pickle.dumps(memory))
    write(worker, 0)
    memory.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.chunk(1)
