"""The progress of a run, as a bar on a terminal and as plain lines in a log file."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

Clock = Callable[[], float]
SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_SILENCE = 60.0  # after which a log file says that the run still works
LONG_STEP_SECONDS = 5.0  # after which a terminal shows the seconds of a running step


class ProgressLine:
    """A Rich progress bar on a terminal; otherwise, as in a log file, a plain line now and then.

    Both show the running step while it lasts.

    Args:
      start: updates done already.
      total: updates of the run.
      clock: returns seconds.
      console: None for standard output.
      silence: seconds without a line after which a log file gets one.
    """

    def __init__(
        self,
        start: int,
        total: int,
        clock: Clock = time.monotonic,
        console: Console | None = None,
        silence: float = SECONDS_OF_SILENCE,
    ):
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._total, self._clock = total, clock
        self._next_line = -float("inf")
        self._seconds_left: float | None = None
        self._shown = clock()  # when `_seconds_left` was estimated
        self._bar = self._watch = None
        self.begin(f"step {start + 1:,}")
        if self._console.is_terminal:
            self._bar = self._make_bar()
            self._task = self._bar.add_task("", total=total, completed=start, text="starting")
            self._bar.start()
        else:
            self._watch = _SilenceWatch(silence, self._say_running)

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            _TextNow(lambda: f"ETA {self._eta()}"),
            _TextNow(self._running),
            console=self._console,
        )

    def begin(self, activity: str) -> None:
        """Show from now on that something runs, such as "step 3" or "the evaluation after step 3"."""
        self._activity, self._began = activity, self._clock()

    def show(self, step: int, values: Mapping[str, float], seconds_left: float | None = None) -> None:
        """Show that a step is done; the next one runs.

        Args:
          values: {"loss", "lr", "images_per_second", "data_wait_share"}.
          seconds_left: until the end of the run, estimated; None for unknown.
        """
        self._seconds_left, self._shown = seconds_left, self._clock()
        self.begin(f"step {step + 1:,}")
        rate = values["images_per_second"]
        speed = f"{rate:,.{0 if rate >= 10 else 2}f} images/s  data wait {values['data_wait_share']:.0%}"
        text = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {speed}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        if self._shown < self._next_line and step < self._total:
            return
        self._next_line = self._shown + SECONDS_BETWEEN_LINES
        self._print(f"step {step:,}/{self._total:,}  {text}  ETA {self._eta()}")

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            _print(self._bar.console, text)
        else:
            self._print(text)

    def close(self) -> None:
        """Stop the bar."""
        if self._bar:
            self._bar.stop()
        if self._watch:
            self._watch.close()

    def _print(self, text: str) -> None:
        if self._watch:
            self._watch.reset()
        _print(self._console, text)

    def _eta(self) -> str:
        """Return the time that is left now; it counts down during a step."""
        if self._seconds_left is None:
            return "-:--"
        return format_seconds(max(0.0, self._seconds_left - (self._clock() - self._shown)))

    def _running(self) -> str:
        """Return what runs and for how long, empty while that is short."""
        seconds = self._clock() - self._began
        return f"({self._activity}: {format_seconds(seconds)})" if seconds >= LONG_STEP_SECONDS else ""

    def _say_running(self) -> None:
        _print(self._console, f"{self._activity}: {self._clock() - self._began:.0f} s so far")


class _TextNow(ProgressColumn):
    """A column whose text is made anew every time that the bar is drawn."""

    def __init__(self, text: Callable[[], str]):
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text())


class _SilenceWatch:
    """Call a function, in a thread, whenever `reset` was not called for so many seconds."""

    def __init__(self, seconds: float, function: Callable[[], None]):
        self._seconds, self._function = seconds, function
        self._last, self._closed = time.monotonic(), threading.Event()
        threading.Thread(target=self._run, daemon=True, name="progress").start()

    def reset(self) -> None:
        self._last = time.monotonic()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(max(0.0, self._last + self._seconds - time.monotonic())):
            if time.monotonic() >= self._last + self._seconds:
                self._function()
                self.reset()


def _print(console: Console, text: str) -> None:
    """Print a line; a log file on a full disk, or a closed pipe, does not stop a run."""
    with contextlib.suppress(OSError):
        console.print(text, markup=False)


def format_seconds(seconds: float) -> str:
    """Return a duration such as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
