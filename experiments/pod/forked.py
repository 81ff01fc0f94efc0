"""Processes of `fastmim`, forked from one that has imported JAX and the package but opened no device.

A fork saves the imports, 5 CPU seconds a process; its devices, threads and signals are its own.
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
from jax._src import compiler, distributed

from fastmim_jax.__main__ import main
from helpers import preloaded  # noqa: F401

_alive: "set[Forked]" = set()


class Forked:
    """`fastmim` in a process and process group of its own.

    Args:
      words: of the command line.
      settings: of JAX, beside those of this process.
    """

    def __init__(self, words: Sequence[str], **settings: object):
        handle, path = tempfile.mkstemp()
        self._file, self.code, self.seconds = Path(path), None, 0.0  # exit code, CPU seconds
        gc.freeze()  # so that a collection of the fork does not copy the pages of this process
        self.pid = os.fork()
        if self.pid == 0:
            _run(words, handle, settings)
        os.close(handle)
        _alive.add(self)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        if self.code is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.seconds = usage.ru_utime + usage.ru_stime
                _alive.discard(self)
        return self.code is None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, end: float) -> int | None:
        """Return the exit code, or None if it still runs at a time of the monotonic clock."""
        while self.running and time.monotonic() < end:
            time.sleep(0.005)
        return self.code

    def kill(self) -> None:
        """End it and the processes that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(time.monotonic() + 10)

    @property
    def output(self) -> str:
        """The text that it has printed."""
        return self._file.read_text()

    def forget(self) -> None:
        """Delete its output."""
        self._file.unlink(missing_ok=True)


@atexit.register
def kill_all() -> None:
    """Kill all processes that run."""
    for process in list(_alive):
        process.kill()


def _run(words: Sequence[str], output: int, settings: dict[str, object]) -> None:
    """Run a command, with its output in a file, and end the process as Python does."""
    _alive.clear()
    atexit.unregister(kill_all)
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgrp()
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name, value in settings.items():
            jax.config.update(name, value)
        main(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write_cache_everywhere() -> None:
    """Let every process write to JAX's compilation cache, whose keys differ by process on CPUs.

    JAX lets only the first one write, and the others would compile in every try.
    """
    write = compiler._cache_write

    def write_anyway(*args: object) -> None:
        state = distributed.global_state
        number, state.process_id = state.process_id, 0
        try:
            write(*args)
        finally:
            state.process_id = number

    compiler._cache_write = write_anyway
