"""A run of some steps that is extended to more: its past stays, its future is that of a longer run."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.extension import check_extension, check_nothing_to_extend, only_length
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.pretrain import pretrain
from helpers import small
from helpers.processes import losses


class Interrupted(Exception):
    """Stands for a power failure."""


def config(folder, steps):
    config = small.config(folder, steps=steps, shape="step", decay_epochs=2.0, warmup_epochs=1.0)
    config.method.backbone.depth = 1
    config.run.update(checkpoint_every=2, loggers=())
    return config


def interrupt(at):
    """Return hooks that interrupt a run after a step."""

    def after(step, state):
        if step == at:
            raise Interrupted

    return [lambda stage, workdir: Hook(1, after)]


@pytest.mark.slow
def test_an_extended_run_equals_a_long_one_to_the_bit(tmp_path, one_device):
    small.write_images(tmp_path / "images", 36)  # 2.25 steps an epoch
    short, long = (config(tmp_path / "images", steps) for steps in (4, 9))
    quiet = dict(log=lambda line: None)
    assert pretrain(long, tmp_path / "long", **quiet) == 9
    expected = losses(tmp_path / "long")
    assert pretrain(short, tmp_path / "run", **quiet) == 4
    past = losses(tmp_path / "run")
    assert past == {key: expected[key] for key in past} and (4, "loss") in past
    with pytest.raises(UserError, match=r"schedule.steps was 4, is 9\): type --extend to go on with it"):
        pretrain(long, tmp_path / "run", **quiet)
    with pytest.raises(Interrupted):
        pretrain(long, tmp_path / "run", interrupt(7), extend=True, **quiet)
    assert pretrain(long, tmp_path / "run", extend=True, **quiet) == 9
    assert losses(tmp_path / "run") == expected
    rates = [line["lr"] for line in read_metrics(tmp_path / "run").records if "lr" in line]
    assert len(rates) == 9 and len(set(np.diff(rates) > 0)) == 2  # warm-up, and decay
    with pytest.raises(UserError, match="can be extended and not be shortened: type the old length"):
        pretrain(short, tmp_path / "run", extend=True, **quiet)


def test_what_cannot_be_extended(tmp_path):
    def check(old, new, records=36, extend=True, **schedule):
        pair = [small.config(steps=steps, **{"shape": "step", **schedule}) for steps in (old, new)]
        check_extension(tmp_path, *pair, records, extend, "shown")

    check(4, 9, warmup_epochs=1.0)
    check(4, 9, records=None, warmup_epochs=1.0)
    with pytest.raises(UserError, match="learning rates depend from the start: .* --config.init="):
        check(2, 9, warmup_epochs=1.0)  # the warm-up was cut to 2 steps
    with pytest.raises(UserError, match="learning rates depend from the start"):
        check(4, 9, shape="cosine")
    with pytest.raises(UserError, match="type --extend to go on with it"):
        check(4, 9, extend=False)
    with pytest.raises(UserError, match="not be shortened"):
        check(9, 4, extend=False)
    with pytest.raises(UserError, match="holds no run to extend: type the --workdir of one, or leave out"):
        check_nothing_to_extend(tmp_path, True)
    check_nothing_to_extend(tmp_path, False)
    assert only_length([("schedule.steps", 4, 9)])
    assert not only_length([]) and not only_length([("schedule.steps", 4, 9), ("seed", 0, 1)])
