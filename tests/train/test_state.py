"""The creation of a state in the tests, which is not the program's own."""

import jax
import numpy as np
import pytest

from fastmim_jax.train import state
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import initial, small
from helpers.sweeps import sweep


def vit(config):
    return config


def remat(config):
    config.method.remat = "full"
    return config


def over(family):
    return lambda config: small.over(family, config)


FAMILIES = {"vit": vit, "remat": remat, "mixmim": small.mixmim, **{x: over(x) for x in small.TINY}}


@pytest.mark.slow
@pytest.mark.parametrize("family", sweep(FAMILIES, ["vit"]))
def test_tests_create_the_states_of_the_program(family, monkeypatch, programs_own_creation):
    """The program creates them sharded; ours are equal to rounding."""
    config = FAMILIES[family](small.config())
    config.run.mesh_fsdp = 2
    stage = make_pretrain_stage(config, records=64, devices=jax.devices())
    monkeypatch.setattr(state, "create_state", programs_own_creation)
    expected = stage.create()
    monkeypatch.setattr(state, "create_state", initial.create_state)
    found = stage.create()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, plan in zip(jax.tree.leaves(expected), jax.tree.leaves(stage.abstract), strict=True):
        assert leaf.sharding == plan.sharding
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim) and x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8)
