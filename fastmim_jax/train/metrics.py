"""What a run tells: a progress line, one JSON line per logged step, TensorBoard."""

import time
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastmim_jax.io import append_json_line, read_json_lines, write_json_lines


class Metrics:
    """Writers of a run, of the first process only.

    Args:
      workdir: where metrics.jsonl and tensorboard/ lie.
      start: updates done already; what an interrupted run wrote beyond them is taken back.
      total: updates of the whole run.
    """

    def __init__(self, workdir, start, total):
        from tensorboardX import SummaryWriter  # slow to import, and needed nowhere else

        self.path = Path(workdir) / "metrics.jsonl"
        lines = read_json_lines(self.path).records
        write_json_lines(self.path, [line for line in lines if line["step"] <= start])
        board = Path(workdir) / "tensorboard"
        self._board = SummaryWriter(str(board), purge_step=start + 1 if start else None)
        self._progress = ProgressLine(start, total)

    def write(self, step, values):
        """Adds one line {"step": step, **values}; floats keep every bit."""
        append_json_line(self.path, {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def show(self, step, values):
        """Moves the progress line; values: {"loss", "lr", "images_per_second"}."""
        self._progress.show(step, values)

    def log(self, text):
        """Prints above the progress line."""
        self._progress.log(text)

    def close(self):
        """Ends the progress line and flushes the writers."""
        self._progress.close()
        self._board.close()


class NullMetrics:
    """Metrics of the other processes: nothing."""

    def write(self, *_):
        """Nothing."""

    show = log = write

    def close(self):
        """Nothing."""


class ProgressLine:
    """A Rich bar on a terminal; on anything else (a log file) a plain line now and then."""

    def __init__(self, start, total, seconds_between_lines=10.0):
        self._console = Console(highlight=False, soft_wrap=True)
        self._start, self._total, self._between = start, total, seconds_between_lines
        self._began = time.monotonic()
        self._next_line = 0.0
        self._bar = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[told]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self._console,
            )
            told = "compiling the first step"
            self._task = self._bar.add_task("", total=total, completed=start, told=told)
            self._bar.start()

    def show(self, step, values):
        told = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images_per_second']:,.0f} images/s"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, told=told)
            return
        now = time.monotonic()
        if now < self._next_line and step < self._total:
            return
        self._next_line = now + self._between
        left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
        self._console.print(f"step {step:,}/{self._total:,}  {told}  ETA {format_seconds(left)}")

    def log(self, text):
        (self._bar.console if self._bar else self._console).print(text, markup=False)

    def close(self):
        if self._bar:
            self._bar.stop()


class ProgressCounter:
    """A Rich line of how many things are done, on a terminal; on anything else only what is said."""

    def __init__(self, what):
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.completed:,.0f} " + what),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def show(self, done):
        """How many are done by now."""
        self._progress.update(self._task, completed=done)

    def log(self, text):
        """Prints above the line, on the first process."""
        if jax.process_index() == 0:
            self._console.print(text, markup=False)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()


def format_seconds(seconds):
    """ "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
