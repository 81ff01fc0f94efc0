"""Progress over a known number of images: a bar on a terminal, otherwise a line now and then."""

import datetime
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ImageProgress:
    """Images done, images/s and ETA; use it in a `with`.

    Args:
      total: images.
      done: images of earlier runs, which do not count for the speed.
      seconds_between_lines: in a log file.
    """

    def __init__(self, total: int, done: int = 0, seconds_between_lines: float = 10.0):
        self._console = Console(highlight=False, soft_wrap=True)
        self._total, self._done = total, done
        self._interval = seconds_between_lines
        self._last_line = time.monotonic()
        self._first: tuple[int, float] | None = None  # images and time of the first report
        self._bar = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, speed="")

    def add(self, images: int) -> None:
        """Count further images."""
        self._done += images
        now = time.monotonic()
        if self._first is None:  # the start of the processes does not count for the speed
            self._first = self._done, now
            return
        speed = (self._done - self._first[0]) / max(now - self._first[1], 1e-9)
        self._bar.update(self._task, completed=self._done, speed=f"{speed:,.0f} images/s")
        if self._console.is_terminal or now < self._last_line + self._interval:
            return
        self._last_line = now
        left = datetime.timedelta(seconds=round((self._total - self._done) / speed))
        self.log(f"{self._done:,}/{self._total:,} images  {speed:,.0f} images/s  ETA {left}")

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    def __enter__(self) -> "ImageProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
