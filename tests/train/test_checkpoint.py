"""Checkpoints keep every bit, are laid out for the devices that read them, and refuse other models."""

import jax
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small


def build(fsdp=1, devices=1, **method):
    config = small.config()
    config.run.mesh_fsdp = fsdp
    config.method.update(**method)
    return make_pretrain_stage(config, records=64, devices=jax.devices()[:devices])


def equal(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, other)


@pytest.mark.slow
def test_eight_sharded_devices_write_and_one_reads(tmp_path):
    wide, narrow = build(fsdp=4, devices=8), build()
    state = wide.create()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, {"records": 80})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 5
        restored = checkpoints.restore(5, narrow.abstract)
        parameters = checkpoints.restore_params(5, narrow.abstract)
        assert checkpoints.position(5) == {"records": 80}
    equal(restored, state)
    equal(parameters.params, state.params)
    assert len(jax.tree.leaves(restored.params)[0].sharding.device_set) == 1


@pytest.mark.slow
def test_keeps_the_newest_and_the_milestones(tmp_path):
    state = build().create()
    with Checkpoints(tmp_path, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, state, {})
    kept = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == [4, 6, 7]


@pytest.mark.slow
def test_another_model_is_refused_in_one_sentence(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, build().create(), {})
        checkpoints._manager.wait_until_finished()
        with pytest.raises(UserError, match="no checkpoint of step 7: choose from: 1"):
            checkpoints.restore_params(7, build().abstract)
        with pytest.raises(UserError, match="does not fit the model"):
            checkpoints.restore(1, build(backbone={"depth": 1, "name": "vit_ti8"}).abstract)
