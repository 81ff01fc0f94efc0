"""Reading parts of large files, from any thread or process."""

import functools
import os
import stat as stat_module
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastmim_jax.data.limits import MAX_FILE_BYTES

_OPEN_FILES = 512  # per process; a prepared split has as many shards
_MAX_BUFFERS = 1024  # of one call, IOV_MAX


def read_file(path: str | os.PathLike) -> bytes:
    """Return the content of a file.

    Raises:
      OSError: no regular file (a FIFO or a device would be read for ever), or a larger one than any image.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening a FIFO waits for a writer
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat_module.S_ISREG(status.st_mode):
            raise OSError("a FIFO, device or folder, expected a file")
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(f"{status.st_size:,} bytes, expected at most {MAX_FILE_BYTES:,}")
        return file.read(MAX_FILE_BYTES)


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


def read_buffers(file: FileStamp, offset: int, buffers: Sequence[memoryview]) -> None:
    """Fill buffers, one after the other, with the bytes of a file from `offset` on.

    Raises:
      OSError: no such file, or it ends before.
    """
    handle = _open(file)
    for first in range(0, len(buffers), _MAX_BUFFERS):
        group = buffers[first : first + _MAX_BUFFERS]
        size = sum(map(len, group))
        found = os.preadv(handle.descriptor, group, offset) if hasattr(os, "preadv") else 0
        if found < size:  # macOS, or as in `read_at`
            data = memoryview(read_at(file, offset, size))
            for buffer in group:
                buffer[:], data = data[: len(buffer)], data[len(buffer) :]
        offset += size


class _Handle:
    """A file descriptor that is closed with its last reference; forked processes may share it (pread)."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # os is gone at exit
        close(self.descriptor)


@functools.lru_cache(_OPEN_FILES)
def _open(file: FileStamp) -> _Handle:
    return _Handle(os.open(file.path, os.O_RDONLY))
