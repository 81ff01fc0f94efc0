"""Schedules that follow from the number of images."""

import pytest

from fastmim_jax.auto_schedule import KEYS, fill_auto, has_auto, set_auto
from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.parse import parse
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.recipes import load_config
from fastmim_jax.validate import check_values
from fastmim_jax.validate.rules import integer
from fastmim_jax.validate.values import or_auto


def own(config):
    set_auto(config)
    check_values(config)
    return config


@pytest.mark.parametrize("command", [("pretrain", "own.py:tiny"), ("finetune", "finetune.py:own")])
@pytest.mark.parametrize("flags", [(), ("--config.schedule.steps=150", "--config.schedule.batch_size=64")])
def test_configs_of_the_command_line_which_are_locked_are_filled(command, flags):
    name, config = command
    words = [f"--config=configs/{config}", "--config.data.path=sample", "--workdir=x", *flags]
    typed = parse(name, COMMANDS[name], words)[0].config
    filled = fill_auto(typed, 60).config
    assert typed.is_locked and filled.is_locked and has_auto(typed) and not has_auto(filled)
    check_values(filled)


@pytest.mark.parametrize(
    ("records", "batch", "epochs"),
    [(100, 32, 304), (1000, 32, 96), (3000, 64, 111), (10_000, 256, 243), (100_000, 1024, 307)],
)
def test_numbers_follow_from_the_images(records, batch, epochs):
    config, notes = fill_auto(own(pretrain_config()), records)
    schedule = config.schedule
    assert not has_auto(config) and schedule.batch_size == batch and schedule.epochs == epochs
    assert schedule.warmup_epochs == pytest.approx(0.05 * epochs, abs=0.01)
    peak = config.optimizer.base_lr * batch / 256
    assert peak == pytest.approx(1.5e-3 * min(1, batch / 256) ** 0.5, rel=0.01)
    assert len(notes) == len(KEYS) and all(str(records) in text or ":" in text for _, text in notes)
    check_values(config)


def test_numbers_that_are_set_stay():
    config = own(pretrain_config())
    config.schedule.batch_size = 32
    config.optimizer.base_lr = 1e-3
    filled, notes = fill_auto(config, 3000)
    assert filled.schedule.batch_size == 32 and filled.optimizer.base_lr == 1e-3 and len(notes) == 2
    assert config.schedule.epochs == "auto"  # the config itself stays
    assert fill_auto(filled, 10).config is filled
    config.schedule.steps = 100
    assert fill_auto(config, 3200).config.schedule.epochs == 1.0


def test_fine_tuning_has_bounds_and_a_longer_warm_up():
    config, _ = fill_auto(own(finetune_config()), 1_000_000)
    assert config.schedule.epochs == 65 and config.schedule.warmup_epochs == 6.5
    assert fill_auto(own(finetune_config()), 30).config.schedule.batch_size == 16


def test_auto_is_a_value_of_these_keys_alone():
    rule = or_auto(integer(1))
    assert rule.accepts("auto") and rule.accepts(3) and not rule.accepts("automatic")
    assert has_auto(load_config("configs/own.py:small")) and not has_auto(load_config("configs/mae.py"))
