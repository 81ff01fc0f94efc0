"""Metrics of a run: a progress line, one JSON line per logged step, TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastmim_jax.io import append_json_line, read_json_lines, write_json_lines


class Metrics:
    """The metrics of a run, written and shown by its first process.

    Args:
      workdir: holds metrics.jsonl and tensorboard/.
      start: updates done already; later lines, of an interrupted run, are removed.
      total: updates of the run.
    """

    def __init__(self, workdir: str | Path, start: int, total: int):
        from tensorboardX import SummaryWriter  # slow to import, and needed nowhere else

        self.path = Path(workdir) / "metrics.jsonl"
        lines = read_json_lines(self.path)
        write_json_lines(self.path, [line for line in lines.records if line["step"] <= start])
        board = Path(workdir) / "tensorboard"
        self._board = SummaryWriter(str(board), purge_step=start + 1 if start else None)
        self._progress = ProgressLine(start, total)
        if lines.dropped:
            self.log(f"{self.path}: incomplete lines removed: {lines.dropped}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line {"step": step, **values}; floats keep every bit."""
        append_json_line(self.path, {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Update the progress line; values: {"loss", "lr", "images_per_second"}."""
        self._progress.show(step, values)

    def log(self, text: str) -> None:
        """Print a line above the progress line."""
        self._progress.log(text)

    def close(self) -> None:
        """End the progress line and flush the writers."""
        self._progress.close()
        self._board.close()


class NullMetrics:
    """The metrics of all other processes, which write and show nothing."""

    def write(self, *_) -> None:
        """Do nothing."""

    show = log = write

    def close(self) -> None:
        """Do nothing."""


class ProgressLine:
    """A Rich progress bar on a terminal; otherwise, as in a log file, a plain line now and then."""

    def __init__(self, start: int, total: int, seconds_between_lines: float = 10.0):
        self._console = Console(highlight=False, soft_wrap=True)
        self._start, self._total, self._interval = start, total, seconds_between_lines
        self._start_time = time.monotonic()
        self._next_line = 0.0
        self._bar = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=total, completed=start, text="starting")
            self._bar.start()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """See `Metrics.show`."""
        text = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images_per_second']:,.0f} images/s"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now < self._next_line and step < self._total:
            return
        self._next_line = now + self._interval
        left = (now - self._start_time) / max(step - self._start, 1) * (self._total - step)
        self._console.print(f"step {step:,}/{self._total:,}  {text}  ETA {format_seconds(left)}")

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar else self._console).print(text, markup=False)

    def close(self) -> None:
        """Stop the bar."""
        if self._bar:
            self._bar.stop()


class ProgressCounter:
    """A Rich line with a count of items done, on a terminal; otherwise only the logged lines.

    Args:
      unit: of the count, such as "images".
    """

    def __init__(self, unit: str):
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.completed:,.0f} " + unit),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def show(self, done: int) -> None:
        """Show the number of items done."""
        self._progress.update(self._task, completed=done)

    def log(self, text: str) -> None:
        """Print a line above the count, on the first process."""
        if jax.process_index() == 0:
            self._console.print(text, markup=False)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()


def format_seconds(seconds: float) -> str:
    """Return a duration such as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
