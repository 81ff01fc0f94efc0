"""Labels and names of the records of a split: read without an image, shared by all processes of a host."""

import os
from collections.abc import Sequence

import numpy as np

from fastmim_jax.io import atomic_write

_LABELS, _NAMES, _ENDS = "labels.npy", "names.npy", "name_ends.npy"
_CHUNKS = "chunks.npy"


class RecordIndex:
    """Memory-mapped labels, names and positions.

    Attributes:
      labels: (N,) int32, -1 for no label.
      chunks: (N,) int64, position of the chunk of each record in its shard, see `sources.riegeli`; None
        where an earlier version prepared the data set.
    """

    def __init__(self, folder: str):
        """Raises OSError or ValueError: the files are missing or damaged."""
        self.labels = _map(folder, _LABELS)
        self._names = _map(folder, _NAMES)
        self._ends = _map(folder, _ENDS)
        self.chunks = _map(folder, _CHUNKS) if has_chunks(folder) else None
        if self.chunks is not None and self.chunks.shape != self.labels.shape:
            raise ValueError(
                f"{_CHUNKS} of {len(self.chunks):,} records, {_LABELS} of {len(self.labels):,}"
            )

    def name(self, index: int) -> str:
        """Return the name of record `index` >= 0."""
        return os.fsdecode(self._names[self._ends[index] : self._ends[index + 1]].tobytes())


def write_index(folder: str, labels: Sequence[int], names: Sequence[str]) -> None:
    """Write the index of a split; the same records give the same bytes."""
    encoded = [os.fsencode(name) for name in names]
    arrays: dict[str, np.ndarray] = {
        _LABELS: np.array(labels, np.int32),
        _NAMES: np.frombuffer(b"".join(encoded), np.uint8),
        _ENDS: np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    }
    for file, array in arrays.items():
        _save(folder, file, array)


def has_chunks(folder: str) -> bool:
    """Return whether the index of a split has the positions of its records."""
    return os.path.exists(os.path.join(folder, _CHUNKS))


def write_chunks(folder: str, chunks: Sequence[int]) -> None:
    """Write the positions of the chunks of a split, see `RecordIndex.chunks`."""
    _save(folder, _CHUNKS, np.array(chunks, np.int64))


def _save(folder: str, file: str, array: np.ndarray) -> None:
    with atomic_write(os.path.join(folder, file)) as path:
        np.save(path, array)


def _map(folder: str, file: str) -> np.ndarray:
    """Map a file into memory, as a plain array: single items of a memmap are slow."""
    return np.asarray(np.load(os.path.join(folder, file), mmap_mode="r"))
