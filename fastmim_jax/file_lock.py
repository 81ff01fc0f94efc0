"""Locks of files, which keep two processes from writing one folder."""

import fcntl
from typing import IO


def try_lock(file: IO) -> bool:
    """Lock a file that is open for writing until it is closed; return False if it is locked already.

    The system releases the lock when the process ends, however it does. On a file system without locks
    every file counts as free.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as ENOLCK
        return True
    return True
