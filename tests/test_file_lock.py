"""Locks of files: held until the file is closed; file systems without locks are used without."""

import errno

from fastmim_jax import file_lock
from fastmim_jax.file_lock import try_lock


def test_a_file_is_locked_until_it_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        assert try_lock(first) and not try_lock(second)
        first.close()
        assert try_lock(second)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", flock)
    with (tmp_path / "lock").open("w") as file:
        assert try_lock(file)
