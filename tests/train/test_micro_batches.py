"""Gradients of micro-batches on several devices: summed over them once, equal to those of one device."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim.losses import masked_mse
from fastmim_jax.mim.mixmim import split_groups, split_pairs
from fastmim_jax.models.convolution import BatchNorm
from fastmim_jax.models.heads import Dropout
from fastmim_jax.models.stack import Stack
from fastmim_jax.tools.plan.hlo_statistics import statistics
from fastmim_jax.train import sharding
from fastmim_jax.train.micro_batches import divides_evenly, mean_gradients, split_strided
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small
from helpers.sweeps import sweep

RANDOM = np.random.default_rng(0)
PARTS = 2
BATCH = {
    "x": np.float32(RANDOM.normal(3, 1, (32, 2, 2, 8))),
    "weight": np.float32(RANDOM.random((32, 2, 2))),
}


class Scaled(nn.Module):
    """A block with one residual branch."""

    num_branches = 1

    @nn.compact
    def __call__(self, x, *, scales):
        branch = nn.Dense(x.shape[-1])(x)
        return x + (branch if scales[0] is None else scales[0][:, None, None, None] * branch)


class Model(nn.Module):
    """A batch norm, drop path, dropout and a weighted mean: everything that depends on the whole batch."""

    norm_groups: int

    @nn.compact
    def __call__(self, x, weight):
        x = BatchNorm(self.norm_groups)(x)
        x = Stack(Scaled, 2, {}, drop_path=(0.2, 0.5))(x)
        x = Dropout(0.3)(x.reshape(len(x), -1)).reshape(x.shape)
        return masked_mse(x, jnp.ones_like(x), weight)


def gradients_of(norm_groups, dtype=jnp.float32):
    """Return a function of a batch: loss, collections and gradients of micro-batches."""
    model = Model(norm_groups)
    variables = small.variables_of(model, {"params": jax.random.key(0)}, *BATCH.values())
    params = jax.tree.map(lambda x: x.astype(dtype), variables["params"])
    state = SimpleNamespace(params=params, collections={"batch_stats": variables["batch_stats"]}, step=3)

    def loss_fn(params, collections, part, rngs):
        variables = {"params": params, **collections}
        return model.apply(variables, part["x"], part["weight"], mutable=["batch_stats"], rngs=rngs)

    def run(batch):
        return mean_gradients(loss_fn, state, batch, PARTS, split_strided, jax.random.key(1))

    return jax.jit(run)


@functools.cache
def expected(norm_groups):
    return gradients_of(norm_groups)(BATCH)


SHARDS = [(1, 1), (4, 1), (16, 1), (1, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("norm_groups", "fsdp"), sweep(SHARDS, [(4, 1), (1, 4)]))
def test_shards_give_the_gradients_of_the_batch(norm_groups, fsdp):
    mesh = sharding.make_mesh(fsdp)
    with jax.set_mesh(mesh):
        found = gradients_of(norm_groups)(jax.device_put(BATCH, sharding.batch_sharding(mesh)))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected(norm_groups)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_cross_devices_in_the_dtype_of_the_parameters():
    with jax.set_mesh(sharding.make_mesh()):
        (inner,) = jax.make_jaxpr(gradients_of(1, jnp.bfloat16))(BATCH).jaxpr.eqns
    (shards,) = (one for one in inner.params["jaxpr"].jaxpr.eqns if one.primitive.name == "shard_map")
    sums = [x.aval.dtype for x in shards.outvars if x.aval.shape[0] == 8 and x.aval.ndim > 1]
    assert sums == [jnp.bfloat16] * 6  # of two dense layers and the batch norm


@pytest.mark.slow
def test_pairs_on_two_devices_are_told_apart():
    mesh = sharding.make_mesh()

    def divides(groups):
        inputs = (
            split_pairs(np.zeros((64, 1)), groups, PARTS),
            split_groups(np.zeros((groups, 4)), 64, PARTS),
        )
        with jax.set_mesh(mesh):
            return divides_evenly(inputs)

    assert divides(8) and divides(16) and not divides(4) and not divides(1)
    assert not divides_evenly(np.zeros((PARTS, 8)))  # without a mesh


def collective_bytes(accumulation, **changes):
    """Return the bytes that cross devices in a step of a tiny method on 8 devices."""
    config = small.config(batch_size=64, accumulation=accumulation)
    config.method.backbone.depth = 1
    config.run.update(changes)
    stage = make_pretrain_stage(config, records=64)
    text = stage.step.compile(stage.abstract, stage.abstract_batch()).as_text()
    return sum(total for _, total in statistics(text)["collectives"].values())


@pytest.mark.slow
@pytest.mark.parametrize("shard_optimizer_state", sweep([False, True], [True]))
def test_bytes_between_devices_do_not_grow_with_micro_batches(shard_optimizer_state):
    two, four = (collective_bytes(n, shard_optimizer_state=shard_optimizer_state) for n in (2, 4))
    assert 0 < four < 1.001 * two  # of every micro-batch, the sum of the loss's weights
