"""Runs that end with a sentence save their step, and hooks that are called again log nothing twice."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json_lines
from fastmim_jax.plan import StagePlan
from fastmim_jax.train.loop import Hook, Loop
from fastmim_jax.train.metrics import Metrics
from fastmim_jax.train.stop_signal import StopSignal
from helpers import small


class Stage:
    """A stage of 6 steps, whose data end with an error after some of them."""

    def __init__(self, batches):
        numbers = dict.fromkeys(StagePlan.__dataclass_fields__, 0)
        numbers |= dict(records=64, batch_size=16, stages=1, last_step=6, total_steps=6)
        self.plan = StagePlan(**{**numbers, "image_size": (32, 32)})
        run = small.config().run
        run.update(log_every=1, checkpoint_every=0, max_failed_saves=1)
        self.config = SimpleNamespace(seed=0, run=run)
        self.reader, self._batches = SimpleNamespace(workers=0), batches

    def loader(self, *_, **__):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        for _ in range(self._batches):
            yield {"num_undecodable": np.zeros(16, int), "index": np.arange(16)}
        raise UserError("data worker 7 died")

    def to_devices(self, batch, _):
        return batch

    def step(self, state, batch):
        values = {"loss": np.float32(1), "lr": np.float32(1), "skipped_in_row": np.int32(0)}
        return state + 1, values


class Saves:
    """The checkpoints of a run, in a list."""

    def __init__(self):
        self.made, self.failed_in_a_row = [], 0

    def save(self, step, state, position):
        self.made.append((step, state, position.get("first_hook")))

    def newest_written(self):
        return self.made[-1][0]

    def wait(self):
        pass

    def take_failures(self):
        return []


@pytest.fixture
def saves():
    return Saves()


def run_stage(workdir, saves, batches=9, hooks=(), start=0, first_hook=None):
    undecodable = SimpleNamespace(count=0, update=lambda batch: [])
    metrics = Metrics(workdir, start, 6)
    stage = Stage(batches)
    loop = Loop([stage], {}, saves, metrics, undecodable, StopSignal())
    try:
        return loop.run_stage(stage, start, start, None, hooks, first_hook)
    finally:
        loop.timer.close()
        metrics.close()


def logged(workdir, name):
    return [line["step"] for line in read_json_lines(workdir / "metrics.jsonl").records if name in line]


def test_the_step_is_saved_before_an_error_of_the_data_ends_the_run(tmp_path, saves, capsys):
    with pytest.raises(UserError, match="data worker 7 died"):
        run_stage(tmp_path, saves, batches=4)
    assert saves.made == [(4, 4, None)] and logged(tmp_path, "loss") == [1, 2, 3, 4]
    assert "step 4 is saved" in capsys.readouterr().out


def test_a_start_that_does_no_step_saves_nothing(tmp_path, saves):
    with pytest.raises(UserError, match="data worker 7 died"):
        run_stage(tmp_path, saves, batches=0)
    assert saves.made == []


def test_a_hook_that_fails_is_called_again_at_the_next_start(tmp_path, saves):
    def fails(step, state):
        raise UserError("no evaluation data")

    hooks = [Hook(3, lambda step, state: {"a": 1.0}), Hook(3, fails)]
    with pytest.raises(UserError, match="no evaluation data"):
        run_stage(tmp_path, saves, hooks=hooks)
    assert saves.made == [(3, 3, 1)]


def test_hooks_that_are_called_twice_log_once(tmp_path, saves):
    """A first start is stopped in the second hook of step 3, the next one too, after it has logged."""
    hooks = [Hook(3, lambda step, state: {"a": 1.0}), Hook(3, lambda step, state: {"b": 2.0})]
    run_stage(tmp_path, saves, hooks=hooks)
    for _ in range(2):  # from the checkpoint of step 3, in which both hooks are still to be called
        run_stage(tmp_path, saves, hooks=hooks, start=3, first_hook=0)
    assert logged(tmp_path, "a") == logged(tmp_path, "b") == [3, 6]
    assert logged(tmp_path, "loss") == [1, 2, 3, 4, 5, 6]
