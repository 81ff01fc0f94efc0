"""Memory that chunks of batches are written to: where they are needed, without a copy in between.

A crop is written once by the thread that reads it. In this process that is its place in the batch; worker
processes write to memory that they share with this process, which copies it to the batch.
"""

import threading
import time
from collections.abc import Mapping

import numpy as np

from fastmim_jax.data.shared_file import SharedFile

Fields = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # name -> shape of a row, dtype
Arrays = dict[str, np.ndarray]

_ALIGNMENT = 64
_POLL_SECONDS = 0.001


def empty(fields: Fields, rows: int) -> Arrays:
    """Return uninitialised arrays of some rows."""
    return {name: np.empty((rows, *shape), dtype) for name, (shape, dtype) in fields.items()}


class LocalBatches:
    """Batches in the memory of this process, whose threads write chunks in place.

    Args:
      fields: of a row.
      chunks: of a batch, of `size` rows each.
    """

    def __init__(self, fields: Fields, chunks: int, size: int):
        self._fields, self._chunks, self._size = fields, chunks, size
        self._lock = threading.Lock()
        self._batches: dict[int, Arrays] = {}

    def chunk(self, number: int) -> Arrays:
        """Return the rows that chunk `number` of the stream is to be written to."""
        step, chunk = divmod(number, self._chunks)
        with self._lock:
            if step not in self._batches:
                self._batches[step] = empty(self._fields, self._chunks * self._size)
            batch = self._batches[step]
        first = chunk * self._size
        return {name: array[first : first + self._size] for name, array in batch.items()}

    def batch(self, step: int) -> Arrays:
        """Return the batch that the chunks of a step are received in."""
        return self._batches[step]

    def receive(self, number: int) -> None:
        """Complete the batch by a chunk that has been written; chunks arrive in their order."""
        step, chunk = divmod(number, self._chunks)
        if chunk == self._chunks - 1:
            with self._lock:
                del self._batches[step]

    def close(self) -> None:
        """Drop all batches."""
        self._batches.clear()

    def __reduce__(self):  # Grain copies its pipeline where it starts: the memory stays one
        raise TypeError("batches in the memory of one process cannot be sent to another")


class SharedBatches:
    """A ring of chunks in memory that worker processes share with this one.

    Workers wait while the ring is full. It needs no space in /dev/shm, which is small in containers.

    Args:
      fields: of a row.
      chunks: of a batch, of `size` rows each.
      slots: chunks that the ring holds.
    """

    def __init__(self, fields: Fields, chunks: int, size: int, slots: int):
        self._fields, self._chunks, self._size, self._slots = fields, chunks, size, slots
        self._offsets, self._stride = _offsets(fields, size)
        self._partial: dict[int, Arrays] = {}
        self._shared = SharedFile(_ALIGNMENT + slots * self._stride)
        self._closed = False

    def chunk(self, number: int) -> Arrays:
        """Return the rows that chunk `number` is to be written to, as soon as they are free."""
        counters = self._counters()
        while number >= counters[0] + self._slots:
            if counters[1]:
                raise RuntimeError("this data loader is closed")
            time.sleep(_POLL_SECONDS)
        return self._slot(number)

    def batch(self, step: int) -> Arrays:
        """Return the batch that the chunks of a step are received in."""
        if step not in self._partial:
            self._partial = {step: empty(self._fields, self._chunks * self._size)}
        return self._partial[step]

    def receive(self, number: int) -> None:
        """Copy a chunk that has been written to its batch; chunks arrive in their order."""
        step, chunk = divmod(number, self._chunks)
        batch, first = self.batch(step), chunk * self._size
        for name, array in self._slot(number).items():
            batch[name][first : first + self._size] = array
        self._counters()[0] = number + 1
        if chunk == self._chunks - 1:
            self._partial = {}

    def close(self) -> None:
        """Let waiting workers end, and drop the memory."""
        if not self._closed:
            self._counters()[1] = 1
            self._shared.close()
            self._closed = True

    def _counters(self) -> np.ndarray:
        """Return [chunks received, whether the loader is closed], shared."""
        return np.frombuffer(self._shared.memory(), np.int64, 2)

    def _slot(self, number):
        start = _ALIGNMENT + number % self._slots * self._stride
        arrays = {}
        for name, (shape, dtype) in self._fields.items():
            shape = (self._size, *shape)
            flat = np.frombuffer(
                self._shared.memory(), dtype, int(np.prod(shape)), offset=start + self._offsets[name]
            )
            arrays[name] = flat.reshape(shape)
        return arrays


def _offsets(fields, rows):
    """-> ({name: offset of its array in a slot}, bytes of a slot)."""
    offsets, end = {}, 0
    for name, (shape, dtype) in fields.items():
        offsets[name] = end
        size = rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return offsets, end
