"""Files that a run writes in the background, so that a disk that is full or gone never holds it up."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fastmim_jax.errors import describe_failure

SECONDS_BETWEEN_TRIES = 1.0
SECONDS_TO_CLOSE = 10.0
MOST_WAITING = 100_000  # items


_STOP = object()


class Trouble(NamedTuple):
    """Why a file cannot be written, and since when (seconds of the sink's clock)."""

    since: float
    reason: str


class Sink:
    """Write items with a function, in order, in a thread of its own.

    An item that cannot be written is tried again every second until the sink is closed. `lost` counts the
    items that were never written.

    Args:
      write: writes one item; it may raise anything.
      retry: False gives up at the first failure, as for a file format that a half-written item breaks.
      clock: returns seconds.
      finish: called in the thread after the last item; what it raises is ignored.
    """

    def __init__(
        self,
        write: Callable[[Any], None],
        retry: bool = True,
        clock: Callable[[], float] = time.monotonic,
        finish: Callable[[], None] = lambda: None,
    ):
        self._write, self._retry, self._clock, self._finish = write, retry, clock, finish
        self._queue: queue.Queue = queue.Queue(MOST_WAITING)
        self._closed = threading.Event()
        self.trouble: Trouble | None = None
        self.lost = 0
        self._writing = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="sink")
        self._thread.start()

    def put(self, item: Any) -> None:
        """Let an item be written."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1

    def flush(self, seconds: float) -> None:
        """Wait until all items are written, but no longer than that."""
        done = threading.Event()
        self.put(done)
        done.wait(seconds)

    def close(self) -> None:
        """Write what is left, for at most SECONDS_TO_CLOSE."""
        self.stop()
        self.join(SECONDS_TO_CLOSE)

    def stop(self) -> None:
        """Begin to close; `join` waits for the end."""
        self._closed.set()
        self.put(_STOP)

    def join(self, seconds: float) -> None:
        """Wait for at most so long until what is left is written."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            waiting = tuple(self._queue.queue)
            self.lost += self._writing + sum(item is not _STOP for item in waiting)

    def _run(self) -> None:
        while (item := self._queue.get()) is not _STOP:
            if isinstance(item, threading.Event):
                item.set()
            elif self.trouble and not self._retry:
                self.lost += 1
            else:
                self._writing = True
                self._write_one(item)
                self._writing = False
        with contextlib.suppress(Exception):
            self._finish()

    def _write_one(self, item: Any) -> None:
        while True:
            try:
                self._write(item)
            except Exception as error:  # whatever a file system or a library raises: the run goes on
                if self.trouble is None:
                    self.trouble = Trouble(self._clock(), describe_failure(error))
                if not self._retry or self._closed.wait(SECONDS_BETWEEN_TRIES):
                    self.lost += 1
                    return
            else:
                self.trouble = None
                return
