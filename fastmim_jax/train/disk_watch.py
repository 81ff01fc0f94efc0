"""The end of a run whose disk fails: it says so, and stops in time."""

from collections.abc import Callable
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.train.remote.workdir import current_mirror

TO_RESUME = "make it writable again, with space, and rerun the same command to resume"


class DiskWatch:
    """Watch the checkpoints and the metrics of a run, which are written in the background.

    Args:
      checkpoints: see `Checkpoints`.
      metrics: see `Metrics`.
      most_failed: saves in a row that may fail before the run stops.
      upload_timeout: seconds that the uploads of this process's run may fail, if it has any; 0: for ever.
    """

    def __init__(self, checkpoints: Any, metrics: Any, most_failed: int, upload_timeout: float = 0.0):
        self._checkpoints, self._metrics, self._most_failed = checkpoints, metrics, most_failed
        self._mirror, self._upload_timeout = current_mirror(), upload_timeout

    def check(self, save: Callable[[], None]) -> None:
        """Print what could not be written.

        Args:
          save: starts to save the state; called before the run stops for its metrics.

        Raises:
          UserError: the metrics could not be written for too long, or too many checkpoints in a row.
        """
        self._print_failures()
        problem = self._metrics.check() or self._check_uploads()
        if problem:
            save()
            self._checkpoints.wait()
            self._print_failures()
            raise UserError(f"{problem}; {self._newest()}: {TO_RESUME}")
        if self._checkpoints.failed_in_a_row >= self._most_failed:
            self._stop(f"{self._checkpoints.failed_in_a_row} checkpoints in a row")

    def check_last_save(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
          UserError: it could not be.
        """
        self._checkpoints.wait()
        self._print_failures()
        if self._checkpoints.failed_in_a_row:
            self._stop("the last checkpoint")

    def print_last_save(self, step: int) -> None:
        """Print whether the state of a step, which was saved at last, is on disk."""
        self._print_failures()
        if self._checkpoints.newest_written() == step:
            self._metrics.log(f"step {step:,} is saved")

    def _check_uploads(self) -> str:
        """Print what the uploads have to say; return a sentence if the run cannot go on for them."""
        if self._mirror is None:
            return ""
        for line in self._mirror.take_lines():
            self._metrics.log(line)
        return self._mirror.problem(self._upload_timeout)

    def _print_failures(self) -> None:
        for failed in self._checkpoints.take_failures():
            self._metrics.log(
                f"the checkpoint of step {failed.step:,} could not be written ({failed.reason}); "
                + self._newest()
            )

    def _stop(self, what: str) -> None:
        folder = self._checkpoints.directory
        raise UserError(f"{what} could not be written to {folder}; {self._newest()}: {TO_RESUME}")

    def _newest(self) -> str:
        step = self._checkpoints.newest_written()
        return "there is no checkpoint" if step is None else f"the newest checkpoint is of step {step:,}"
