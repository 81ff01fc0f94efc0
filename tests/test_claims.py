"""The arms and the budget of experiments/claims."""

import importlib
import math
import sys
from pathlib import Path

import pytest

from fastmim_jax.validate import check_values

FOLDER = str(Path(__file__).parents[1] / "experiments" / "claims")
MODULES = ("arms", "budget", "run")


@pytest.fixture(scope="module")
def modules():
    """The modules of the experiment: arms, budget, run."""
    sys.path.insert(0, FOLDER)
    try:
        yield [importlib.import_module(name) for name in MODULES]
    finally:
        sys.path.remove(FOLDER)
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_arm_has_valid_configs(modules):
    arms, _, run = modules
    for size in arms.SIZES.values():
        place = run.Place("sample", Path(), size)
        for group in arms.groups(size).values():
            for arm in group.values():
                check_values(run.tuning_config(arm, place, 0, 10))
                if arm.pretraining is not None:
                    check_values(run.pretraining_config(arm, place, 0, 10))


@pytest.mark.parametrize("by", ["updates", "time"])
def test_all_runs_take_the_time_that_there_is(modules, by):
    arms, budget, _ = modules
    chosen = {name: arms.MAIN[name] for name in ("scratch", "scratch_longer", "mae", "fastmim_hog")}
    trained = {"mae": budget.Speed(1000.0, 20.0), "fastmim_hog": budget.Speed(300.0, 30.0)}
    tuned = {name: budget.Speed(400.0, 10.0) for name in chosen}
    updates = budget.share_out(60.0, by, chosen, 3, trained, tuned, 256, 128)
    total = sum(256 / trained[name].images_per_second * updates[name].pretraining for name in trained)
    total += sum(128 / tuned[name].images_per_second * updates[name].tuning for name in chosen)
    total += sum(speed.overhead_seconds for speeds in (trained, tuned) for speed in speeds.values())
    assert math.isclose(3 * total, 60 * 60, rel_tol=0.01)
    mae, fastmim = updates["mae"].pretraining, updates["fastmim_hog"].pretraining
    if by == "updates":
        assert mae == fastmim
    else:
        assert math.isclose(mae * 256 / 1000, fastmim * 256 / 300, rel_tol=0.01)
    assert updates["scratch_longer"].tuning > updates["scratch"].tuning == updates["mae"].tuning


def test_too_little_time_is_told(modules):
    arms, budget, _ = modules
    speeds = {"mae": budget.Speed(1000.0, 100.0)}
    with pytest.raises(ValueError, match="type a larger --minutes"):
        budget.share_out(1.0, "time", {"mae": arms.MAIN["mae"]}, 1, speeds, speeds, 256, 128)


def test_arms_that_differ_in_length_alone_are_measured_once(modules):
    arms, _, run = modules
    longer, mae = arms.MAIN["scratch_longer"], arms.MAIN["mae"]
    assert run.same_tuning(longer, arms.MAIN, ["mae", "scratch"]) == "scratch"
    assert run.same_tuning(mae, arms.MAIN, ["scratch", "pr_mim"]) is None
