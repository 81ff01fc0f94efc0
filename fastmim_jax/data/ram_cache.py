"""All records of a source in memory that the worker processes share."""

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastmim_jax.data.cpus import cpu_share
from fastmim_jax.data.host import free_memory
from fastmim_jax.data.shared_file import SharedFile
from fastmim_jax.data.sources import Source
from fastmim_jax.errors import UserError

SHARE = 0.8  # of the available memory, at most
_SAMPLES = 64  # records whose size is taken for that of all
_BLOCK = 1024  # records that are read at a time


def cache_in_memory(source: Source, threads: int, log: Callable[[str], None]) -> "RamCache":
    """Read all records into memory, as they are stored: nothing is decoded.

    Args:
      source: records.
      threads: that read.
      log: prints a line.

    Raises:
      UserError: the records do not fit.
    """
    free = free_memory()
    limit = 2**62 if free is None else int(SHARE * free / cpu_share().processes)
    sample = np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(int)).tolist()
    estimate = sum(map(len, _packed(source, sample, threads))) * len(source) // len(sample)
    _check(estimate, limit, len(source))
    shared, ends = SharedFile(0), [0]
    for record in _packed(source, range(len(source)), threads):
        ends.append(ends[-1] + len(record))
        _check(ends[-1], limit, len(source))
        shared.file.write(record)
    shared.file.flush()
    log(f"{len(source):,} records in memory, {ends[-1] / 2**30:,.2f} GiB")
    return RamCache(source, shared, np.array(ends, np.int64))


class RamCache:
    """A source whose records are in memory; everything else is that of the source."""

    rows = None  # of files: here, whole records are read without a copy

    def __init__(self, source: Source, shared: SharedFile, ends: np.ndarray):
        self._source, self._shared, self._ends = source, shared, ends

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickle asks before `_source` is there
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        start, end = self._ends[index], self._ends[index + 1]
        if start == end:  # it could not be read
            return self._source[index]
        return _unpack(memoryview(self._shared.memory())[start:end].toreadonly())

    def __repr__(self) -> str:
        return f"{self._source!r} in memory"


def _check(size: int, limit: int, records: int) -> None:
    if size > limit:
        raise UserError(
            f"config.data.cache is 'ram', but {records:,} records need about {size / 2**30:,.2f} GiB, "
            f"expected at most {limit / 2**30:,.2f} GiB, {SHARE:.0%} of the available memory: type "
            "--config.data.cache='', or make them smaller with `fastmim prepare`"
        )


def _packed(source: Source, indices: Sequence[int], threads: int) -> Iterator[bytes]:
    """Yield the records as bytes, in order; b"" for one that cannot be read."""

    def pack(index: int) -> bytes:
        try:
            return _pack(source[index])
        except Exception:  # read again, and reported, when its turn comes
            return b""

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), _BLOCK):
            yield from pool.map(pack, indices[start : start + _BLOCK])


def _pack(record: Any) -> bytes:
    """Pickle a record with its arrays apart, so that they are read without a copy.

    Layout: number of arrays, bytes of the pickle and of every array (int64), pickle, arrays.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(record, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = np.array([len(arrays), len(head), *map(len, arrays)], np.int64)
    return b"".join([sizes.tobytes(), head, *arrays])


def _unpack(data: memoryview) -> Any:
    count = int.from_bytes(data[:8], "little")
    ends = list(itertools.accumulate(data[8 : 16 + 8 * count].cast("q"), initial=16 + 8 * count))
    parts = [data[start:end] for start, end in itertools.pairwise(ends)]
    return pickle.loads(parts[0], buffers=parts[1:])
