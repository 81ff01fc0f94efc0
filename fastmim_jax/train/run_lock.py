"""One run per work directory."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.file_lock import try_lock
from fastmim_jax.io import read_json
from fastmim_jax.paths import utf8_path

FILE = "lock"


@contextlib.contextmanager
def run_lock(workdir: str | Path) -> Iterator[None]:
    """Hold the lock of a work directory, which the system releases when the process ends, however it does.

    The file names the holder: host, process and start. A file system without locks is used without. Of
    several processes of a run, the first holds the lock.

    Raises:
      UserError: another process holds it, the work directory cannot be written to, or its name is not
        UTF-8.
    """
    if jax.process_index():
        yield
        return
    workdir = Path(utf8_path(workdir, "--workdir="))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / FILE).open("a+")
    except OSError as error:
        raise UserError(
            f"cannot use the work directory {workdir} ({error.strerror}): type --workdir=DIR with a folder "
            "that can be written to"
        ) from error
    with file:
        if not try_lock(file):
            raise UserError(
                f"{workdir} is in use by {_holder(workdir)}: wait until it ends, stop it, or type another "
                "--workdir"
            )
        _write_holder(file)
        yield


def _write_holder(file) -> None:
    with contextlib.suppress(OSError):  # a full disk ends the run elsewhere
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": since}, file)
        file.flush()


def _holder(workdir: Path) -> str:
    try:
        holder = read_json(workdir / FILE, dict, "the holder of a lock")
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (UserError, KeyError):
        return "another run"
