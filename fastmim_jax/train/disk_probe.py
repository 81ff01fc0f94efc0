"""The end of a run whose disk does not answer any more: a write that never returns cannot be waited for."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.paths import is_remote
from fastmim_jax.train.peers import current_peers

FILE = ".disk_probe"
EXIT_CODE = 2
_PAUSE = 5.0  # seconds between probes
_SECONDS_TO_LOOK = 2.0  # for the newest checkpoint


@contextlib.contextmanager
def probed_disk(
    workdir: str | Path, most_seconds: float, leave: Callable[[int], Any] = os._exit
) -> Iterator[None]:
    """End the process, in the block, once a small write to the work directory does not return.

    The main thread may hang in the same disk, so that other threads write, look and end the process. The
    first process of a run does it for all. Other failures than silence end a run elsewhere.

    Args:
      workdir: exists.
      most_seconds: that a write of a few bytes may take; 0 for no limit.
      leave: ends the process with an exit code; other functions are for tests.
    """
    if jax.process_index() or not most_seconds or is_remote(workdir):
        yield
        return
    probe = _Probe(Path(workdir), most_seconds, leave)
    try:
        yield
    finally:
        probe.close()


class _Probe:
    def __init__(self, workdir: Path, most_seconds: float, leave: Callable[[int], Any]):
        self._workdir, self._most, self._leave = workdir, most_seconds, leave
        self._began: float | None = None  # of the write that runs
        self._newest = "there is no checkpoint"
        self._closed = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True, name="disk-probe")
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="disk-watch")
        self._writer.start()
        self._watcher.start()

    def close(self) -> None:
        self._closed.set()
        self._watcher.join()
        self._writer.join(_PAUSE)  # its last write may hang

    def _write(self) -> None:
        """Write a small file every few seconds, as a checkpoint is written: to the disk itself."""
        while not self._closed.is_set():
            self._began = time.monotonic()
            with contextlib.suppress(OSError):  # a disk that is full or gone answers
                _write_file(self._workdir / FILE)
            self._look()
            self._began = None
            self._closed.wait(_PAUSE)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._most / 4)):
            began = self._began
            if began is not None and time.monotonic() - began > self._most:
                self._end()
                return

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self._newest = _newest_checkpoint(self._workdir)

    def _end(self) -> None:
        look = threading.Thread(target=self._look, daemon=True)  # reading may hang as well
        look.start()
        look.join(_SECONDS_TO_LOOK)
        text = (
            f"{self._workdir} does not answer: a write of a few bytes has not returned for "
            f"{self._most:.0f} s (config.run.disk_timeout_seconds); {self._newest}: repair the disk or its "
            "network, and rerun the same command to resume"
        )
        with contextlib.suppress(OSError, ValueError):
            print(f"fastmim: {text}", file=sys.stderr, flush=True)
        peers = current_peers()
        if peers is not None:
            peers.fail(text, EXIT_CODE)
        self._leave(EXIT_CODE)


def _write_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"0")
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def _newest_checkpoint(workdir: Path) -> str:
    names = os.listdir(workdir / "checkpoints") if (workdir / "checkpoints").exists() else []
    steps = [int(name) for name in names if name.isdecimal() and name.isascii()]
    return f"the newest checkpoint is of step {max(steps):,}" if steps else "there is no checkpoint"
