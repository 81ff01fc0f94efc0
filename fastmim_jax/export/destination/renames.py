"""Renames that never overwrite: of Linux's renameat2, or of ordinary renames where that is missing."""

import ctypes
import errno
import os
from pathlib import Path

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_AT_FDCWD = -100
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def exchange(a: Path, b: Path) -> bool:
    """Swap two paths of any kind in one step; return False where the system cannot.

    Raises:
      OSError: one of them is missing, or may not be renamed.
    """
    return _renameat2(a, b, _EXCHANGE)


def rename_new(source: Path, target: Path) -> None:
    """Rename a path to a name that is free.

    Raises:
      OSError: the name is taken, or may not be used.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:  # macOS, or an old C library
        return False
    paths = os.fsencode(source), os.fsencode(target)
    if not function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(flags)):
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(target))
