"""One run on 1 and on 8 devices, and who feeds which rows."""

from collections import namedtuple
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fastmim_jax.train import sharding
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

Device = namedtuple("Device", "id process_index")
RANDOM = np.random.default_rng(0)
BATCHES = [
    {
        "image": RANDOM.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
        "flip": RANDOM.random(16) < 0.5,
    }
    for _ in range(5)
]


def five_losses(devices, fsdp, **changes):
    config = small.config(accumulation=changes.pop("accumulation", 1))
    config.run.mesh_fsdp = fsdp
    config.run.shard_optimizer_state = changes.pop("shard_optimizer_state", False)
    config.method.update(**changes)
    stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:devices])
    state, losses = stage.create(), []
    for batch in BATCHES:
        before, (state, metrics) = state, stage.step(state, stage.to_devices(batch, 16))
        losses.append(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))  # donated
    return stage, state, losses


@pytest.fixture(scope="module")
def one_device():
    return five_losses(1, 1)[2]


@pytest.mark.parametrize("fsdp", sweep([1, 2, 8], [2]))
def test_eight_devices_give_the_losses_of_one(one_device, fsdp):
    stage, state, losses = five_losses(8, fsdp)
    np.testing.assert_allclose(losses, one_device, rtol=1e-5)
    assert dict(stage.mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}
    for tree in (state.params, state.opt_state[1].mu, state.opt_state[1].nu):
        kernel = tree["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"]
        assert kernel.shape == (32, 128)
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(32, 128 // fsdp)}
        assert len(kernel.sharding.device_set) == 8
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
    assert held < whole * (1 / fsdp + 0.15)  # only small arrays are held whole


@pytest.mark.exhaustive
def test_scanned_layers_and_accumulation_are_sharded_alike(one_device):
    losses = five_losses(8, 2, layers="scanned", remat="full", accumulation=2)[2]
    np.testing.assert_allclose(losses, one_device, rtol=1e-5)


@pytest.mark.parametrize(("fsdp", "accumulation"), sweep([(1, 2), (2, 1)], [(1, 2)]))
def test_a_split_optimizer_state_gives_the_same_losses(one_device, fsdp, accumulation):
    stage, state, losses = five_losses(8, fsdp, accumulation=accumulation, shard_optimizer_state=True)
    np.testing.assert_allclose(losses, one_device, rtol=1e-5)
    adam = state.opt_state[1]
    for tree, parts in ((state.params, fsdp), (adam.mu, 8), (adam.nu, 8)):
        kernel = tree["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"]
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(32, 128 // parts)}
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(adam))
    assert held < sum(leaf.nbytes for leaf in jax.tree.leaves(adam)) * (1 / 8 + 0.15)


def test_a_split_optimizer_state_is_restored_on_other_meshes(tmp_path):
    """Checkpoints of one setting are restored in the others, on other numbers of devices."""

    def make_stage(devices, split):
        config = small.config()
        config.run.shard_optimizer_state = split
        return make_pretrain_stage(config, records=64, devices=jax.devices()[:devices])

    first = make_stage(8, True)
    begun = first.create()
    moments = jax.tree.map(  # as after an update: not zeros, and split
        lambda leaf: jax.device_put(RANDOM.random(leaf.shape).astype(leaf.dtype), leaf.sharding),
        begun.opt_state,
    )
    state = begun.replace(opt_state=moments)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    for devices, split in ((8, True), (8, False), (2, True), (1, False)):
        stage = first if (devices, split) == (8, True) else make_stage(devices, split)
        with Checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(1, stage.abstract)
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        for leaf, plan in zip(jax.tree.leaves(restored), jax.tree.leaves(stage.abstract), strict=True):
            assert leaf.sharding == plan.sharding


def test_the_batch_stays_split_inside_the_step():
    config = small.config()
    config.run.mesh_fsdp = 8
    config.method.backbone.depth = 1
    stage = make_pretrain_stage(config, records=64)
    batch = stage.to_devices(BATCHES[0], 16)
    with jax.set_mesh(stage.mesh):
        text = stage.step.jitted.lower(stage.abstract, batch).compile().as_text()
    assert "all-gather" in text  # of the weights
    # A whole batch of tokens (16 x 17 x 32) on one device would mean that activations were gathered.
    assert "f32[16,17,32]" not in text and "f32[2,17,32]" in text


def test_rows_are_asked_of_the_sharding():
    """Two processes of four devices on a mesh laid out 0 1 4 5 | 2 3 6 7, four rows a device."""
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    devices = [Device(i, i // 4) for i in order]
    indices = {device: (slice(4 * n, 4 * n + 4),) for n, device in enumerate(devices)}
    fake = SimpleNamespace(devices_indices_map=lambda shape: indices)
    first, second = (sharding.owned_rows(fake, 32, process) for process in (0, 1))
    assert first.tolist() == [*range(0, 8), *range(16, 24)]
    assert sorted([*first, *second]) == list(range(32))


def test_shardings_follow_the_shape_alone():
    mesh = sharding.make_mesh(4, jax.devices())
    shapes = {"big": (12, 256), "odd": (7, 1001), "small": (8,), "last": (64, 5, 96), "bias": (4096,)}
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    specs = {name: tuple(s.spec) for name, s in sharding.state_shardings(tree, mesh).items()}
    assert specs == {
        "big": (None, "fsdp"),
        "odd": (),
        "small": (),
        "last": (None, None, "fsdp"),
        "bias": (),
    }
