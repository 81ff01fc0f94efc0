"""All processes of a run stop after the same step."""

from typing import Any

from fastmim_jax.train.peers import Peers


class StopAgreement:
    """Decide after which step a run stops when one, some or all of its processes have received a signal.

    The process that hears of a signal waits, before its next step, until every process has said how many
    steps it has dispatched; all stop after the largest of these. No step waits otherwise.

    Args:
      stop: see `StopSignal`.
      peers: None for a process that runs alone.
    """

    def __init__(self, stop: Any, peers: Peers | None):
        self._stop, self._peers = stop, peers
        self._last: int | None = None  # the step to stop after

    def stopping(self, step: int) -> bool:
        """Return whether to stop after this step."""
        if self._peers is None:
            return bool(self._stop.name)
        if self._last is None and (self._stop.name or self._peers.stop_name):
            self._decide(step)
        return self._last is not None and step >= self._last

    @property
    def stopped(self) -> bool:
        """Whether the run stops; after `end_stage`, all processes have the same answer."""
        return bool(self._stop.name) if self._peers is None else self._last is not None

    def end_stage(self, step: int) -> None:
        """Let processes that wait in `stopping` go on, after a stage's last step and before its save."""
        if self._peers is not None and self._last is None:
            self._decide(step)

    def _decide(self, step: int) -> None:
        """Hear what every process has done and received; all come to the same decision."""
        assert self._peers is not None
        heard = self._peers.share("stop", [step, self._stop.name or self._peers.stop_name])
        names = [name for _, name in heard if name]
        if names:
            self._last = max(step for step, _ in heard)
            self._stop.name = self._stop.name or names[0]
