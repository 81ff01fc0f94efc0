"""Checkpoints keep every bit, are laid out for the devices that read them, and refuse other models."""

import resource

import jax
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import Checkpoints, describe_damage
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
        checkpoints.check_saved()
        with pytest.raises(UserError, match="no checkpoint of step 7: choose from: 1"):
            checkpoints.restore_params(7, build().abstract)
        with pytest.raises(UserError, match="does not fit the model"):
            checkpoints.restore(1, build(backbone={"depth": 1, "name": "vit_ti8"}).abstract)


def folders(path):
    return sorted(found.name for found in path.iterdir() if not found.name.startswith("."))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path):
    state = build().create()
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {"records": step})
        checkpoints.wait()
        assert checkpoints.find_whole() == (3, True, [])
        data = max((tmp_path / "3" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
        data.write_bytes(data.read_bytes()[:-1])
        (tmp_path / "9").mkdir()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.find_whole()
        assert found.step == 2 and [step for step, _ in found.damaged] == [9, 3]
        with pytest.raises(UserError, match="3 is damaged .*: its checksum differs"):
            checkpoints.check_whole(3)
        checkpoints.set_aside(found.damaged)
        assert folders(tmp_path) == ["1", "2", "damaged-3", "damaged-9"]
        checkpoints.save(3, state, {"records": 3})
        checkpoints.wait()
        assert checkpoints.find_whole().step == 3
    with Checkpoints(tmp_path, verify=False) as checkpoints:
        (tmp_path / "3" / "params" / "_METADATA").write_text("")
        assert checkpoints.find_whole().step == 3


@pytest.mark.slow
def test_a_checkpoint_without_sums_is_used_unverified(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, build().create(), {"records": 1})
    (tmp_path / "1" / "SHA256SUMS").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.find_whole()
        assert (found.step, found.verified) == (1, False)
        assert "has no SHA256SUMS: it is not verified" in describe_damage(tmp_path, found)[0]


@pytest.mark.slow
def test_a_save_that_fails_is_reported_and_the_next_one_works(tmp_path):
    state, (soft, hard) = build().create(), resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {"records": 1})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
        try:
            checkpoints.save(2, state, {"records": 2})
            checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert checkpoints.take_failures() == [(2, "File too large")] and checkpoints.failed_in_a_row == 1
        assert checkpoints.newest_written() == 1
        checkpoints.save(3, state, {"records": 3})
        checkpoints.check_saved()
        assert checkpoints.failed_in_a_row == 0
        assert [name for name in folders(tmp_path) if name.isdigit()] == [
            "3"
        ]  # Orbax may write on to 2's rest
