"""All processes of a run stop after the same unit of work: a step, or a batch of an evaluation."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from fastmim_jax.train.peers import Peers


class GivenUp(Exception):
    """All processes of a run give up an evaluation after the same batch."""


_BEGIN: ContextVar[Callable[[], None]] = ContextVar("begin", default=lambda: None)


def begin_unit() -> None:
    """Begin a batch of an evaluation, or another part of it that every process computes in the same order.

    Raises:
      GivenUp: the processes of a run have agreed to stop before it.
    """
    _BEGIN.get()()


class StopAgreement:
    """Decide after which unit of work a run stops when one, some or all of its processes receive a signal.

    Every process begins the same units in the same order. At a signal all of them begin no further unit and
    say how many they have begun; all stop after the largest number. The threads that listen say it, so that
    a main thread that waits for the devices, and thereby for another process, delays nothing.

    Args:
      stop: see `StopSignal`.
      peers: None for a process that runs alone.
    """

    def __init__(self, stop: Any, peers: Peers | None):
        self._stop, self._peers = stop, peers
        self._changed = threading.Condition()
        self._begun, self._held = 0, False
        self._last: int | None = None  # the unit to stop after
        self._stopped = False
        if peers is not None:
            peers.join_agreement(self)

    def begin(self) -> bool:
        """Begin a unit; return False if the run stops before it."""
        if self._peers is None:
            return not self._stop.name
        with self._changed:
            self._changed.wait_for(lambda: self._last is not None or not self._held)
            if self._last is not None and self._begun >= self._last:
                return False
            self._begun += 1
            return True

    def hold(self) -> int:
        """Begin no further unit until `decide`; return the number of those that have begun."""
        with self._changed:
            self._held = True
            return self._begun

    def decide(self, heard: Sequence[tuple[int, str]]) -> None:
        """Stop after the largest number of units begun; heard: (number, signal) of every process."""
        with self._changed:
            self._stop.name = heard[0][1]  # one exit code for all
            self._last = max(begun for begun, _ in heard)
            self._changed.notify_all()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Let several processes give up the block together, at a `begin_unit` in it or before it.

        Raises:
          GivenUp: they have agreed to.
        """
        if self._peers is None:
            yield
            return
        token = _BEGIN.set(self._begin_or_give_up)
        try:
            begin_unit()
            yield
        finally:
            _BEGIN.reset(token)

    def _begin_or_give_up(self) -> None:
        if not self.begin():
            raise GivenUp

    @property
    def stopped(self) -> bool:
        """Whether the run stops; after `end_stage`, all processes have the same answer."""
        return bool(self._stop.name) if self._peers is None else self._stopped

    def end_stage(self) -> None:
        """Agree whether the run goes on to the next stage; waits for all processes."""
        if self._peers is None:
            return
        names = [name for name in self._peers.share("stage", self._peers.stop_name) if name]
        if names:
            self._stopped, self._stop.name = True, self._stop.name or names[0]
