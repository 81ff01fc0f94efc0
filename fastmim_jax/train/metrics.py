"""Metrics of a run: a progress line, one JSON line per logged step, and loggers such as TensorBoard."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from fastmim_jax.config import logger_keys
from fastmim_jax.io import JsonLines, append_json_line, read_json_lines, write_json_lines
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.loggers import close_all, make_loggers
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars
from fastmim_jax.train.progress import Clock, ProgressLine
from fastmim_jax.train.sink import Sink

SECONDS_TO_FLUSH = 5.0
SECONDS_OF_TROUBLE = 30.0  # without a line in metrics.jsonl, after which a run stops


def read_metrics(workdir: str | Path) -> JsonLines:
    """Read the lines {"step": int, name: number, ...} of metrics.jsonl; all others are dropped and counted.

    Raises:
      UserError: the file cannot be read.
    """
    lines = read_json_lines(Path(workdir) / "metrics.jsonl")
    records = [record for record in lines.records if _is_of_a_step(record)]
    return JsonLines(records, lines.dropped + len(lines.records) - len(records))


def _is_of_a_step(record: Mapping) -> bool:
    return isinstance(record.get("step"), int) and all(isinstance(x, (int, float)) for x in record.values())


def _names(values: Mapping) -> set[str]:
    return {*values} - {"step", "time"}


class Metrics:
    """The metrics of a run, written and shown by its first process.

    Args:
      workdir: holds metrics.jsonl, and the files of the loggers.
      start: updates done already; later lines, of an interrupted run, are removed.
      total: updates of the run.
      config: of the run; its section `run` names the loggers. None: no loggers.
      clock: returns seconds, for the progress line.
    """

    def __init__(
        self, workdir: str | Path, start: int, total: int, config: Any = None, clock: Clock = time.monotonic
    ):
        self.path = Path(workdir) / "metrics.jsonl"
        lines = read_metrics(workdir)
        kept = [line for line in lines.records if line["step"] <= start]
        write_json_lines(self.path, kept)
        # Of hooks that were called after the step that the run starts from, and are called again.
        self._start, self._written = start, [_names(line) for line in kept if line["step"] == start]
        self._clock = clock
        self._lines = Sink(partial(append_json_line, self.path), clock=clock)
        logged = max((line["step"] for line in lines.records), default=0)
        facts = RunFacts(Path(workdir), {}, start=start, logged=logged)
        if config is not None:
            facts = facts._replace(config=flatten(config), project=config.run.project)
        keys = () if config is None else logger_keys(config.run.loggers)
        self._loggers = make_loggers(keys, facts, clock)
        self.done = False  # whether the run has ended as planned
        self._told: set[str] = set()  # files whose trouble was printed
        self._progress = ProgressLine(start, total, clock)
        if lines.dropped:
            self.log(f"{self.path}: incomplete or damaged lines removed: {lines.dropped:,}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line {"step": step, "time": Unix seconds, **values}; floats keep every bit.

        Values of the first step that an interrupted start has written already are not written again.
        """
        if step == self._start and _names(values) in self._written:
            return
        now = round(time.time(), 3)
        self._lines.put({"step": step, "time": now, **values})
        for logger in self._loggers:
            logger.put(Scalars(step, now, dict(values)))

    def write_results(self, step: int, results: Mapping[str, float | Path] | None) -> None:
        """Write and print the numbers of a hook, and give its pictures to the loggers."""
        results = results or {}
        pictures = {name: path for name, path in results.items() if isinstance(path, Path)}
        for name, path in pictures.items():
            for logger in self._loggers:
                logger.put(Picture(step, round(time.time(), 3), name, path))
        values = {name: x for name, x in results.items() if not isinstance(x, Path)}
        if values:
            self.write(step, values)
            self.log(f"step {step:,}  " + "  ".join(f"{name} {x:.4g}" for name, x in values.items()))

    def flush(self) -> None:
        """Wait until metrics.jsonl has every line, for SECONDS_TO_FLUSH at most."""
        self._lines.flush(SECONDS_TO_FLUSH)

    def check(self) -> str:
        """Print a line when a file or a logger cannot be written, or can be again.

        Returns:
          A sentence once metrics.jsonl could not be written for SECONDS_OF_TROUBLE; until then "".
        """
        for logger in self._loggers:
            self._tell(logger.name, logger.trouble)
        self._print_notes()
        lines = self._lines.trouble
        wait = f"{SECONDS_OF_TROUBLE:.0f} s"
        self._tell(self.path.name, lines and f"{lines.reason}: the run stops if that lasts {wait}")
        if lines is None or self._clock() - lines.since < SECONDS_OF_TROUBLE:
            return ""
        return f"{self.path} could not be written for {wait} ({lines.reason})"

    def _print_notes(self) -> None:
        for logger in self._loggers:
            for note in logger.take_notes():
                self.log(f"{logger.name}: {note}")

    def _tell(self, name: str, trouble: str | None) -> None:
        if trouble and name not in self._told:
            self._told.add(name)
            self.log(f"{name} cannot be written: {trouble}")
        elif not trouble and name in self._told:
            self._told.remove(name)
            self.log(f"{name} can be written again")

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
        """Write what is left, and end the progress line."""
        self._lines.close()
        if self._lines.lost:
            self.log(f"{self.path.name} lacks {self._lines.lost:,} steps that could not be written")
        for line in close_all(self._loggers, self.done, self._clock):
            self.log(line)
        self._print_notes()
        self._progress.close()


class NullMetrics:
    """The metrics of all other processes, which write and show nothing."""

    done = False

    def write(self, *_) -> None:
        """Do nothing."""

    show = begin = log = flush = write_results = write

    def check(self) -> str:
        """Return "": nothing can fail."""
        return ""

    def close(self) -> None:
        """Do nothing."""


class ProgressCounter:
    """A Rich line with a count of items done, on a terminal; otherwise only the logged lines.

    Args:
      unit: of the count, such as "images".
      edit: of a line that is printed, such as `cli.Command.as_typed`.
    """

    def __init__(self, unit: str, edit: Callable[[str], str] = str):
        self._edit = edit
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.completed:,.0f} " + unit),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal or jax.process_index() > 0,
        )
        self._task = self._progress.add_task("", total=None)

    def show(self, done: int) -> None:
        """Show the number of items done."""
        self._progress.update(self._task, completed=done)

    def log(self, text: str) -> None:
        """Print a line above the count, on the first process."""
        if jax.process_index() == 0:
            self._console.print(self._edit(text), markup=False)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()
