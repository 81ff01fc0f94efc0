"""A run whose disk fails says so, and stops in time."""

from types import SimpleNamespace

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import FailedSave
from fastmim_jax.train.disk_watch import DiskWatch


class Run:
    """The checkpoints and the metrics of a run."""

    def __init__(self):
        self.failures, self.lines, self.problem, self.saves = [], [], "", 0
        self.checkpoints = SimpleNamespace(
            take_failures=self.take,
            failed_in_a_row=0,
            wait=lambda: None,
            directory="run",
            newest_written=lambda: 15,
        )
        self.metrics = SimpleNamespace(log=self.lines.append, check=lambda: self.problem)

    def take(self):
        taken, self.failures = self.failures, []
        return taken

    def fail(self, step):
        self.failures.append(FailedSave(step, "No space left on device"))
        self.checkpoints.failed_in_a_row += 1

    def save(self):
        self.saves += 1
        self.fail(99)


@pytest.fixture
def run():
    return Run()


def test_failed_checkpoints_are_told_until_there_are_too_many(run):
    watch = DiskWatch(run.checkpoints, run.metrics, most_failed=2)
    watch.check(run.save)
    run.fail(20)
    watch.check(run.save)
    told = "the checkpoint of step 20 could not be written (No space left on device)"
    assert run.lines == [f"{told}; the newest checkpoint is of step 15"]
    run.fail(25)
    with pytest.raises(
        UserError, match="2 checkpoints in a row could not be written to run; the newest .* step 15"
    ):
        watch.check(run.save)
    assert run.saves == 0


def test_before_the_metrics_stop_a_run_it_tries_to_save(run):
    run.problem = "metrics.jsonl could not be written for 30 s (No space left on device)"
    with pytest.raises(
        UserError, match="for 30 s .* newest checkpoint is of step 15: make it writable again"
    ):
        DiskWatch(run.checkpoints, run.metrics, most_failed=9).check(run.save)
    assert run.saves == 1 and len(run.lines) == 1


def test_the_last_checkpoint_must_be_written(run):
    watch = DiskWatch(run.checkpoints, run.metrics, most_failed=9)
    watch.check_last_save()
    run.fail(40)
    with pytest.raises(UserError, match="the last checkpoint could not be written"):
        watch.check_last_save()
