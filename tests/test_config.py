"""The derived numbers, and which differences between configs matter."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax.config import base, differences
from fastmim_jax.mim import create_method
from fastmim_jax.plan import derive

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_recipe_in_numbers():
    plan = derive(base(), records=1_281_167, stride=16, unit=8, devices=8)
    assert plan.peak_lr == pytest.approx(2.4e-3)  # 1.5e-4 x 4096 / 256
    assert plan.grid == plan.blocks == (8, 8) and plan.hidden == 48
    assert plan.total_steps == 800 * 1_281_167 // 4096
    assert plan.epoch(plan.total_steps) == pytest.approx(800, abs=0.01)
    told = dict(plan.describe())
    assert told["batch"] == "4,096, 512 per device at a time"
    assert told["hidden blocks"] == "48 of 8 x 8 = 64"


def test_steps_replace_epochs_and_warmup_fits_into_them():
    config = base()
    config.schedule.update(steps=100, batch_size=64)
    plan = derive(config, records=640, stride=16, unit=8, devices=1)
    assert plan.total_steps == 100 and plan.warmup_epochs == pytest.approx(10)


@pytest.mark.parametrize("variant", load("fastmim").VARIANTS)
def test_every_variant_builds(variant):
    config = load("fastmim").get_config(variant)
    method = create_method(config.method)
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    variables = jax.eval_shape(method.init, keys, images)
    out = jax.eval_shape(lambda v, x: method.apply(v, x, rngs=keys), variables, images)
    assert out.prediction.shape == (2, 6, 10, 108) and out.loss.dtype == jnp.float32
    assert (
        method.encoder.heads == {"vit_b16_official": 6, "vit_b16": 12, "vit_s16": 6, "vit_l16": 16}[variant]
    )


def test_only_what_changes_a_run_differs():
    before, now = base().to_dict(), base()
    now.run.log_every = 7
    assert differences(before, now) == []
    now.optimizer.base_lr = 1.0
    now.method.backbone.depth = 3
    assert differences(before, now) == [
        ("method.backbone.depth", None, 3),
        ("optimizer.base_lr", 1.5e-4, 1.0),
    ]
