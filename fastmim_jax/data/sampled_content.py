"""Hashes of some records of a data set, which show that the content under the same names has changed."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420
from fastmim_jax.data.sources import SampleSource

SAMPLED = 64  # records, evenly spaced
_FIRST = 2**16  # bytes of a record that count, and its length
_MAX_BYTES = 2**27  # of all records: a few large ones are read instead of all
_MAX_SECONDS = 10.0  # of a slow network
_STRIDE = 37  # from record to record, so that those read in time are spread over the data set


def hash_records(source: Any) -> list[str | None]:
    """Return hashes of at most SAMPLED evenly spaced records, in order.

    A hash is None where the record cannot be read, or would cost too many bytes or seconds. There are none
    for prepared images, whose manifest has a hash, and for the bundled photos.
    """
    if getattr(source, "manifest", None) is not None or isinstance(source, SampleSource):
        return []
    indices = np.unique(np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int)).tolist()
    hashes: list[str | None] = [None] * len(indices)
    start, total = time.monotonic(), 0
    has_masks = hasattr(source, "content")  # whose bytes count too
    for number in sorted(range(len(indices)), key=lambda number: number * _STRIDE % SAMPLED):
        if total > _MAX_BYTES or time.monotonic() - start > _MAX_SECONDS:
            break
        try:
            index = indices[number]
            data = _content(source.content(index) if has_masks else source[index])
        except Exception:  # OSError, or an error of the storage behind the source
            continue
        total += len(data)
        digest = hashlib.sha256(f"{len(data)}\n".encode())
        digest.update(data[:_FIRST])
        hashes[number] = digest.hexdigest()[:16]
    return hashes


def count_changes(before: Sequence[str | None], now: Sequence[str | None]) -> tuple[int, int]:
    """Return how many of the records that both have a hash of differ, and the number of these records."""
    pairs = [(old, new) for old, new in zip(before, now, strict=False) if old and new]
    return sum(old != new for old, new in pairs), len(pairs)


def _content(record: Any) -> bytes:
    if isinstance(record, bytes):
        return record
    if isinstance(record, Yuv420):
        record = record.y
    if isinstance(record, RawImage):
        record = record.values
    return np.asarray(record).tobytes()
