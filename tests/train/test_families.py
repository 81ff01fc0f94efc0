"""Every kind of backbone in a whole training step: on several devices, in other shapes and channels."""

import shutil

import jax
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.models.convolution import BatchNorm
from fastmim_jax.train import sharding
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.pretrain import make_pretrain_stage, pretrain
from fastmim_jax.train.report import read_baselines
from helpers import initial, small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
STEPS = 3


def batches(height, width, channels, count=STEPS):
    return [
        {
            "image": RANDOM.integers(0, 256, (16, height, width, channels), dtype=np.uint8),
            "flip": RANDOM.random(16) < 0.5,
        }
        for _ in range(count)
    ]


def train(config, devices, batches, initial=None):
    """Return (initial state, last state, losses).

    A given initial state saves compiling its creation; test_sharding.py creates states on several devices.
    """
    stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:devices])
    if initial is None:  # kept on the host: a step donates its state
        initial = jax.device_get(stage.create())
    state, losses = jax.device_put(initial, jax.tree.map(lambda x: x.sharding, stage.abstract)), []
    for batch in batches:
        state, metrics = stage.step(state, stage.to_devices(batch, 16))
        losses.append(float(metrics["loss"]))
    assert int(metrics["skipped"]) == 0
    return initial, state, losses


@pytest.mark.parametrize("family", sweep(small.TINY, ["convnext"]))
def test_eight_devices_give_the_losses_of_one(family):
    """Data and parameters both split, 4 x 2, on wide images of four channels with blocks of half a cell.

    CMT's batch norms see the whole batch on either.
    """
    data = batches(64, 96, 4)
    config = small.over(family, small.config())
    config.data.update(image_size=(64, 96), channels=4)
    config.method.block_size = 16
    initial, _, one = train(config, 1, data)
    config.run.mesh_fsdp = 2
    _, state, eight = train(config, 8, data, initial)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[-1] < one[0]
    kernel = state.params["decoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(32, 64)}


@pytest.mark.exhaustive
@pytest.mark.parametrize("host", [small.mixmim, small.mae])
def test_partial_reconstruction_on_eight_devices_gives_the_losses_of_one(host):
    config = host(small.config(accumulation=2))
    config.method.groups, config.method.partial.throw_ratio = 4, 0.5
    config.method.backbone.depth = None if host is small.mixmim else 1
    data = batches(*config.data.image_size, 3)
    initial, _, one = train(config, 1, data)
    config.run.mesh_fsdp = 2
    np.testing.assert_allclose(train(config, 8, data, initial)[2], one, rtol=1e-5)


IDEAS = {
    "green masks": (small.mae, {"method.mask_noise": "green"}),
    "green coarse masks": (small.mixmim, {"method.mask_noise": "green", "method.groups": 4}),
    "cross-attention": (
        small.mae,
        {
            "method.name": "crossmae",
            "method.partial.throw_ratio": 0.5,
            "method.partial.sampler": "random",
            "method.partial.fill": "none",
        },
    ),
    "fused layers": (small.mae, {"method.fuse_layers": (1, 2)}),
    "local decoders": (
        small.mae,
        {
            "method.name": "localmim",
            "method.target": "hog",
            "method.local_layers": (1, 2),
            "method.target_scales": (4, 16),
        },
    ),
    "coarse disjoint masks": (
        small.mae,
        {"method.mask_grid": 2, "data.views": "masks", "data.views_per_image": 4},
    ),
}


@pytest.mark.parametrize("idea", sweep(IDEAS, ["green masks"]))
def test_ideas_on_eight_devices_give_the_losses_of_one(idea):
    """With accumulation, and parameters split."""
    method, changes = IDEAS[idea]
    config = method(small.config(accumulation=2))
    config.update_from_flattened_dict(changes)
    data = batches(*config.data.image_size, 3, count=2)
    initial, _, one = train(config, 1, data)
    config.run.mesh_fsdp = 2
    np.testing.assert_allclose(train(config, 8, data, initial)[2], one, rtol=1e-5)


def test_local_decoders_resume_to_the_bit(tmp_path):
    """A run that lost its last checkpoint."""
    method, changes = IDEAS["local decoders"]
    config = method(small.config(steps=6))
    config.update_from_flattened_dict(changes)
    log = []
    assert pretrain(config, tmp_path, log=log.append) == 6
    first = read_metrics(tmp_path).records
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    assert pretrain(config, tmp_path, log=log.append) == 6
    losses = [
        {x["step"]: x["loss"] for x in lines if "loss" in x}
        for lines in (first, read_metrics(tmp_path).records)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    (baselines,) = read_baselines(tmp_path)
    # A histogram is normalised: predicting zero costs 1 / 9 at each of two scales.
    np.testing.assert_allclose(baselines["training"]["zero"], 2 / 9, rtol=1e-3)


@pytest.mark.parametrize("family", sweep(small.TINY, ["pvt_v2"]))
def test_pixels_of_one_channel_with_large_blocks(family):
    config = small.over(family, small.config())
    config.method.update(target="pixel", block_size=64)
    method = create_method(config.method)
    images = RANDOM.normal(size=(2, 64, 128, 1)).astype(np.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    variables = small.variables_of(method, keys, images)
    out = jax.jit(lambda images: method.apply(variables, images, rngs=keys))(images)
    assert out.prediction.shape == out.target.shape == (2, 2, 4, 32 * 32)
    hidden = np.asarray(out.mask).reshape(2, -1) > 0
    assert (hidden.mean(1) == 1).all()  # of two blocks, 75 % are rounded up to both
    np.testing.assert_allclose(out.loss, np.square(out.prediction - out.target).mean(), rtol=1e-5)


def test_groups_of_a_batch_norm_lie_on_the_devices_that_hold_them():
    """Statistics of 8 groups on 8 devices are those of one device, and nothing is communicated for them."""
    x = RANDOM.normal(size=(16, 4, 4, 8)).astype(np.float32)
    module = BatchNorm(groups=8)
    variables = initial.variables(module, jax.random.key(0), x)
    mesh = sharding.make_mesh(1, jax.devices())
    apply = jax.jit(lambda x: module.apply(variables, x, mutable=["batch_stats"])[0])
    split = jax.device_put(x, sharding.batch_sharding(mesh))
    np.testing.assert_allclose(apply(split), apply(x), atol=1e-6)
    assert "all-reduce" not in apply.lower(split).compile().as_text()
    together = jax.jit(lambda x: BatchNorm().apply(variables, x, mutable=["batch_stats"])[0])
    assert "all-reduce" in together.lower(split).compile().as_text()
    np.testing.assert_allclose(together(split), together(x), atol=1e-6)
