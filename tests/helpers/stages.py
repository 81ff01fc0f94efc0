"""Stages that runs share, and runs that are not trained."""

import dataclasses
import inspect
import json
from contextlib import contextmanager

import jax
import pytest

from fastmim_jax.stages import at_stage
from fastmim_jax.train import pretrain
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.workdir import prepare_workdir


def untrained(config, workdir, records=20, step=0, devices=None):
    """Write a work directory of pre-training whose checkpoint has the initial parameters; return it."""
    stage = pretrain.make_pretrain_stage(config, records, devices)
    prepare_workdir(workdir, config)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(step, stage.create(), {"records": stage.plan.record(step), "stage": 0})
    return workdir


@contextmanager
def shared():
    """Let runs of pre-training with equal configs share their stages, traced and compiled once.

    Yields the stages by what they were made from.
    Not for tests that change the program by hand: a stage that is known would hide the change.
    """
    known, make = {}, pretrain.make_pretrain_stage

    def make_once(*args, **options):
        given = inspect.signature(make).bind(*args, **options)
        given.apply_defaults()
        if given.arguments["loaded"] is not None:
            return make(*args, **options)
        config, stage = given.arguments.pop("config"), given.arguments["stage"]
        given.arguments["devices"] = tuple(given.arguments["devices"] or jax.devices())
        key = _of_the_program(config), *given.arguments.values()
        if key not in known:
            known[key] = make(*args, **options)
        return dataclasses.replace(known[key], config=at_stage(config, stage))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "make_pretrain_stage", make_once)
        yield known


def _of_the_program(config):
    """The config without the probe that reads the weights during the run."""
    return json.dumps({name: section for name, section in config.to_dict().items() if name != "monitor"})
