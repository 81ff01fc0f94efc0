"""Metrics of a run: a progress line, one JSON line per logged step, TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from fastmim_jax.io import append_json_line, read_json_lines, write_json_lines
from fastmim_jax.train.progress import Clock, ProgressLine


class Metrics:
    """The metrics of a run, written and shown by its first process.

    Args:
      workdir: holds metrics.jsonl and tensorboard/.
      start: updates done already; later lines, of an interrupted run, are removed.
      total: updates of the run.
      clock: returns seconds, for the progress line.
    """

    def __init__(self, workdir: str | Path, start: int, total: int, clock: Clock = time.monotonic):
        from tensorboardX import SummaryWriter  # slow to import, and needed nowhere else

        self.path = Path(workdir) / "metrics.jsonl"
        lines = read_json_lines(self.path)
        write_json_lines(self.path, [line for line in lines.records if line["step"] <= start])
        board = Path(workdir) / "tensorboard"
        self._board = SummaryWriter(str(board), purge_step=start + 1 if start else None)
        self._progress = ProgressLine(start, total, clock)
        if lines.dropped:
            self.log(f"{self.path}: incomplete lines removed: {lines.dropped}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line {"step": step, "time": Unix seconds, **values}; floats keep every bit."""
        append_json_line(self.path, {"step": step, "time": round(time.time(), 3), **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def begin(self, activity: str) -> None:
        """See `ProgressLine.begin`."""
        self._progress.begin(activity)

    def show(self, step: int, values: Mapping[str, float], seconds_left: float | None) -> None:
        """See `ProgressLine.show`."""
        self._progress.show(step, values, seconds_left)

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

    show = begin = log = write

    def close(self) -> None:
        """Do nothing."""


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
