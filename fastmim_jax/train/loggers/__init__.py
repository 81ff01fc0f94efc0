"""Loggers of a run beside metrics.jsonl: TensorBoard, Weights & Biases and MLflow.

All get the same names, the config, and pictures. Each writes in the background, best effort: none stops or
slows a run. Clients of servers run in processes of their own (`process`), which can be ended at any time.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fastmim_jax.config import LOGGERS
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars
from fastmim_jax.train.loggers.process import LoggerProcess
from fastmim_jax.train.sink import Sink
from fastmim_jax.train.tensorboard import EventWriter

SECONDS_TO_UPLOAD = 30.0  # at the end of a run; interrupted runs wait for SECONDS_TO_STOP
SECONDS_TO_STOP = 10.0


class Logger:
    """A logger in the background.

    Attributes:
      name: shown to users.
    """

    def __init__(self, key: str, facts: RunFacts, clock: Callable[[], float]):
        self.name = LOGGERS[key].shown
        self._done, self._clock = False, clock
        self._process: LoggerProcess | None = None
        self._notes_taken = 0
        if key == "tensorboard":
            events = EventWriter(facts.workdir / "tensorboard", facts.start, facts.config)
            self._sink = Sink(events.write, retry=False, clock=clock)
        else:
            self._process = LoggerProcess(key, facts)
            self._sink = Sink(self._process.write, clock=clock, finish=self._finish)

    def put(self, item: Scalars | Picture) -> None:
        """Let an item be written."""
        self._sink.put(item)

    @property
    def trouble(self) -> str | None:
        """Return why nothing can be written, and what becomes of it; None if all is well."""
        if self._sink.trouble is None:
            return None
        later = "it gets no values until the next start"
        if self._process:
            later = "training goes on, and it is tried again"
        return f"{self._sink.trouble.reason}: {later}"

    def take_notes(self) -> list[str]:
        """Return what the logger has to say since the last call, such as its address."""
        notes = self._process.notes if self._process else []
        new, self._notes_taken = notes[self._notes_taken :], len(notes)
        return new

    @property
    def seconds_to_close(self) -> float:
        """Return how long `join` may wait for the rest."""
        return SECONDS_TO_UPLOAD if self._done else SECONDS_TO_STOP

    def stop(self, done: bool) -> None:
        """Begin to close: what is left is written; done: whether the run has ended as planned."""
        self._done = done
        self._sink.stop()

    def join(self, seconds: float) -> list[str]:
        """Wait for at most so long, and return lines on what is missing."""
        self._sink.join(seconds)
        lost = self._sink.lost
        lines = [f"{self.name} lacks {lost:,} {'item' if lost == 1 else 'items'} that could not be written"]
        lines = lines if lost else []
        if self._process is not None and self._process.kill():
            lines.append(f"{self.name} was ended before it was done{self._process.how_to_complete()}")
        return lines

    def _finish(self) -> None:
        if self._process is not None:
            self._process.finish(self._done)


def make_loggers(
    keys: Iterable[str], facts: RunFacts, clock: Callable[[], float] = time.monotonic
) -> list[Logger]:
    """Return the loggers with these keys of `config.LOGGERS`; nothing is opened before the first item."""
    facts = facts._replace(workdir=Path(facts.workdir).absolute())
    return [Logger(key, facts, clock) for key in keys]


def close_all(
    loggers: Iterable[Logger], done: bool, clock: Callable[[], float] = time.monotonic
) -> list[str]:
    """Close loggers at the same time and return lines on what they lack; done: see `Logger.stop`."""
    loggers, began = list(loggers), clock()
    for logger in loggers:
        logger.stop(done)
    lines = []
    for logger in loggers:
        lines += logger.join(max(0.0, logger.seconds_to_close - (clock() - began)))
    return lines
