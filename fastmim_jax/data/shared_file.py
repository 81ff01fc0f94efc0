"""Memory that processes share by a path, without space in /dev/shm, which is small in containers."""

import mmap
import os
import tempfile
import threading
from typing import Any


class SharedFile:
    """A file in memory (Linux) or a temporary one; a pickled copy maps the same bytes.

    It vanishes with the process that made it and those that have mapped it.

    Args:
      size: bytes; memory is taken as they are written.
    """

    def __init__(self, size: int):
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        if hasattr(os, "memfd_create"):
            self.file: Any = open(os.memfd_create("fastmim_jax"), "r+b")  # noqa: SIM115, see `close`
            self._path = f"/proc/{os.getpid()}/fd/{self.file.fileno()}"
        else:
            self.file = tempfile.NamedTemporaryFile(prefix="fastmim_jax")  # noqa: SIM115
            self._path = self.file.name
        self.file.truncate(size)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _map=None, file=None)

    def memory(self) -> mmap.mmap:
        """Return the bytes of the file, writable, mapped at the first call."""
        with self._lock:
            if self._map is None:
                with open(self._path, "r+b") as file:
                    self._map = mmap.mmap(file.fileno(), 0)
            return self._map

    def close(self) -> None:
        """Close the file; what is mapped stays until nothing refers to it."""
        if self.file is not None:
            self.file.close()
            self.file = None
