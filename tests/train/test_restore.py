"""The state at the start of a process."""

from types import SimpleNamespace

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.restore import restore_or_create


def stage(first, last, record):
    plan = SimpleNamespace(first_step=first, last_step=last, total_steps=20, batch_size=16)
    plan.record = lambda step: record + (step - first) * 16
    return SimpleNamespace(plan=plan, create=lambda: "created", abstract="abstract")


def checkpoints(latest, **position):
    return SimpleNamespace(
        latest=lambda: latest, position=lambda _: position, restore=lambda step, abstract: f"state {step}"
    )


STAGES = [stage(0, 10, 0), stage(10, 20, 160)]


def test_without_a_checkpoint_the_state_is_created():
    assert restore_or_create(STAGES, checkpoints(None), print) == ("created", 0, 0)


def test_the_newest_checkpoint_is_restored_into_its_stage():
    lines = []
    found = restore_or_create(STAGES, checkpoints(15, records=240, stage=1), lines.append)
    assert found == ("state 15", 15, 1) and lines == ["resuming at step 15 of 20"]


def test_a_checkpoint_at_another_record_is_refused():
    with pytest.raises(UserError, match="saved at record 99, not at 80 as with batches of 16"):
        restore_or_create(STAGES, checkpoints(5, records=99, stage=0), print)
