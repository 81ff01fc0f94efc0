"""Signals that stop a run: it saves its step, then exits with 128 plus the signal's number."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_TO_LEAVE = 2.0  # for the main thread to leave a block that has nothing to save
_TICK = 0.2  # seconds
_END = b"\0"  # ends the listening thread; no signal has this number


class Stopped(SystemExit):
    """A run was stopped by a signal; its exit code is 128 plus the signal's number."""

    def __init__(self, name: str, agreed: bool = False, since: float | None = None):
        """Args:
        agreed: all processes of the run stopped after the same step.
        since: time of the signal, by the monotonic clock.
        """
        super().__init__(exit_code(name))
        self.name, self.agreed, self.since = name, agreed, since


def exit_code(name: str) -> int:
    """Return 128 plus the number of a signal, such as 143 for "SIGTERM"."""
    return 128 + signal.Signals[name].value


def on_lost_stop(act: Callable[[Stopped], Any]) -> Callable[[Any], Any]:
    """Call a function where Python ignores a Stopped, as in a callback of its garbage collector.

    Returns:
      The former `sys.unraisablehook`.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            act(unraisable.exc_value)
        else:
            before(unraisable)

    sys.unraisablehook = hook
    return before


class StopSignal:
    """Listen for SIGTERM, SIGINT (Ctrl-C) and SIGHUP in a `with` block.

    A thread listens, so that a signal counts also while the main thread is inside a compiler or a library.
    A loop looks at `name` and stops by itself. Where it cannot, the process ends by itself:

      - in a `nothing_to_save` block, by `Stopped`, or without it after SECONDS_TO_LEAVE;
      - in a `rescued_by` block that lasts longer than half of the grace time, after the rescue;
      - anywhere, ten grace times after the signal;
      - at once, at SIGINT after any signal.

    Only the main thread can receive signals: elsewhere the block hears none.

    Args:
      grace: seconds between the signal and the end of the process that a scheduler leaves.
      say: prints a line at once.
      leave: ends the process with an exit code; other functions are for tests.
      tell: called with the name of a signal that this process received.
    """

    def __init__(
        self,
        grace: float = 25.0,
        say: Callable[[str], None] | None = None,
        leave: Callable[[int], Any] = os._exit,
        tell: Callable[[str], None] = lambda name: None,
    ):
        self._tell = tell
        self.name: str | None = None  # of the first signal
        self.since: float | None = None  # its time, by the monotonic clock
        self._grace, self._say, self._leave = grace, say or _print_error, leave
        self._safe = False  # in a `nothing_to_save` block
        self._rescue: Callable[[], None] | None = None
        self._lock = threading.Lock()  # held while a rescue is set, taken or run
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._unraisable = on_lost_stop(self._lost)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        sys.unraisablehook = self._unraisable
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.write(self._write, _END)
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Let a signal end the block, and the process, at once.

        Raises:
          Stopped: a signal came, in the block or before it.
        """
        if self.name:
            raise Stopped(self.name)
        self._safe = True
        try:
            yield
        finally:
            self._safe = False
        if self.name:
            raise Stopped(self.name)

    @contextlib.contextmanager
    def rescued_by(self, save: Callable[[], None]) -> Iterator[None]:
        """Let another thread call `save` and end the process if the block lasts too long after a signal."""
        with self._lock:
            self._rescue = save
        try:
            yield
        finally:
            with self._lock:  # waits for a rescue, which ends the process
                self._rescue = None

    def receive(self, name: str) -> None:
        """Act on a signal that another process of the run has received."""
        if self.name is None and self._before:
            self.name = name
            os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._safe:
            self._safe = False
            raise Stopped(self.name or signal.Signals(number).name)

    def _lost(self, stopped: Stopped) -> None:
        self.name = self.name or stopped.name
        self._end(f"stopped by {self.name}: there was nothing to save")

    def _listen(self) -> None:
        """Hear signals until the end of the block, and end the process where the loop does not."""
        began = None
        while True:
            ready, _, _ = select.select([self._read], [], [], _TICK if began else None)
            if ready:
                received = os.read(self._read, 1)
                if received == _END:
                    return
                if received[0] not in SIGNALS:
                    continue
                if began is not None and received[0] == signal.SIGINT:
                    self._end("Ctrl-C again: the run ends at once")
                elif began is None:
                    began = self.since = time.monotonic()
                    self._announce(signal.Signals(received[0]).name)
            if began is not None:
                self._enforce(time.monotonic() - began)

    def _announce(self, name: str) -> None:
        if self.name is None:
            self.name = name
            self._tell(name)
        self._say(f"{self.name}: the run stops as soon as its last step is saved; Ctrl-C ends it at once")

    def _enforce(self, seconds: float) -> None:
        """End the process if the main thread does not, `seconds` after the signal."""
        if self._safe and seconds > SECONDS_TO_LEAVE:
            self._end(f"stopped by {self.name}: there was nothing to save")
        if seconds > self._grace / 2:
            with self._lock:
                if self._rescue is not None:
                    self._rescue()
                    self._end(f"stopped by {self.name}: the current step is saved")
        if seconds > 10 * self._grace:
            self._end(
                f"{self.name}: the run was not saved within {10 * self._grace:.0f} s and ends without"
            )

    def _end(self, text: str) -> None:
        self._say(text)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream.isatty():
                    stream.write("\x1b[?25h")  # a progress bar hides the cursor
                stream.flush()
        self._leave(exit_code(self.name or "SIGINT"))


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
