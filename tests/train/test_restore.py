"""The state at the start of a process."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import Damage, Found
from fastmim_jax.train.restore import find_start, restore_or_create


def stage(first, last, record):
    plan = SimpleNamespace(first_step=first, last_step=last, total_steps=20, batch_size=16)
    plan.record = lambda step: record + (step - first) * 16
    return SimpleNamespace(plan=plan, create=lambda: "created", abstract="abstract")


def checkpoints(latest, damaged=(), **position):
    return SimpleNamespace(
        directory=Path("checkpoints"),
        find_whole=lambda: Found(latest, True, damaged),
        set_aside=lambda _: None,
        position=lambda _: position,
        restore=lambda step, abstract: f"state {step}",
    )


STAGES = [stage(0, 10, 0), stage(10, 20, 160)]


def test_without_a_checkpoint_the_state_is_created():
    start = find_start(STAGES, checkpoints(None), print)
    assert (start.step, start.stage) == (0, 0)
    assert restore_or_create(start, STAGES, checkpoints(None), print) == "created"


def test_the_newest_checkpoint_is_restored_into_its_stage():
    lines, saved = [], checkpoints(15, records=240, stage=1)
    start = find_start(STAGES, saved, print)
    assert (start.step, start.stage) == (15, 1)
    assert restore_or_create(start, STAGES, saved, lines.append) == "state 15"
    assert lines == ["resuming at step 15 of 20"]


def test_after_the_last_step_of_a_stage_the_next_one_starts():
    start = find_start(STAGES, checkpoints(10, records=160, stage=0), print)
    assert (start.step, start.saved_in, start.stage) == (10, 0, 1)


def test_a_checkpoint_at_another_record_is_refused():
    with pytest.raises(UserError, match="saved at record 99, not at 80 as with batches of 16"):
        find_start(STAGES, checkpoints(5, records=99, stage=0), print)


def test_damaged_checkpoints_are_told_with_what_they_cost():
    lines, damaged = [], [Damage(9, "rest/d/1: its checksum differs")]
    start = find_start(STAGES, checkpoints(5, damaged, records=80, stage=0), lines.append)
    assert start.step == 5
    problem = "checkpoint checkpoints/9 is damaged (rest/d/1: its checksum differs)"
    assert lines == [f"{problem}: step 5 is used, 4 steps older"]


def test_without_a_whole_checkpoint_nothing_starts_again_by_itself():
    damaged = [Damage(9, "params: it is missing")]
    with pytest.raises(UserError, match="no checkpoint in checkpoints is whole: type another --workdir"):
        find_start(STAGES, checkpoints(None, damaged), print)


def test_hooks_that_a_signal_kept_from_the_last_step_of_a_stage_run_in_that_stage():
    start = find_start(STAGES, checkpoints(10, records=160, stage=0, first_hook=1), print)
    assert (start.stage, start.first_hook) == (0, 1)
