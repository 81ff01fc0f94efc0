"""Reading parts of large files, from any thread or process."""

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

_OPEN_FILES = 64  # per process


class FileStamp(NamedTuple):
    """A file in one state.

    size: bytes. modified: ns.
    """

    path: str
    size: int
    modified: int


def stamp(path: str | os.PathLike) -> FileStamp:
    """Return the stamp of a file as it is now."""
    found = os.stat(path)
    return FileStamp(os.path.abspath(path), found.st_size, found.st_mtime_ns)


def read_at(file: FileStamp, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from `offset` on.

    Raises:
      OSError: no such file, or it ends before.
    """
    handle = _open(file)  # the reference keeps the file open until the read is done
    data = os.pread(handle.descriptor, size, offset)
    while 0 < len(data) < size:  # a read of more than 2 GiB, or one that a signal interrupted
        more = os.pread(handle.descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    if len(data) < size:
        raise OSError(f"{file.path} ends at byte {offset + len(data):,}, expected {offset + size:,}")
    return data


class _Handle:
    """A file descriptor that is closed with its last reference; forked processes may share it (pread)."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # os is gone at exit
        close(self.descriptor)


@functools.lru_cache(_OPEN_FILES)
def _open(file: FileStamp) -> _Handle:
    return _Handle(os.open(file.path, os.O_RDONLY))
