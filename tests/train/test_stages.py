"""FastMIM-P: runs with growing images, across stage switches and interruptions."""

import contextlib
import io
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fastmim_jax.train.pretrain import make_pretrain_stages, pretrain
from fastmim_jax.train.report import read_baselines
from fastmim_jax.train.resize_state import resize_state
from helpers import small
from helpers.processes import lines, losses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device", "shared_stages")]

SWITCHES, LAST = (12, 21), 28
TABLES = {"relative_positions": "own"}  # one per block, resized at every switch


def three_stages(folder):
    """A config of three stages of a ViT: cheaper to compile than a Swin, and tables of the same kind."""
    config = small.config(folder, steps=LAST, warmup_epochs=1.0)
    config.method.backbone.update(TABLES)
    config.stages.image_sizes = (40, 48, (56, 48))
    config.stages.batch_sizes = (8, 16, 16)
    config.stages.start_epochs = (0, 2, 5)
    config.run.update(checkpoint_every=5, keep=9)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> run(workdir): trains there and returns what was printed."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(48):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(12, 0).repeat(12, 1)).save(folder / f"{index:03}.png")

    def run(workdir):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert pretrain(three_stages(folder), workdir) == LAST
        return output.getvalue()

    return run


@pytest.fixture(scope="module")
def never_killed(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("complete")
    output = run(workdir)
    assert "stages  3, 28 steps in all" in output
    assert re.search(
        r"stage 2 of 3: 48 x 48 pixels from step 13, 2 x relative_position_bias_table resampled", output
    )
    assert re.search(r"stage 3 of 3: 56 x 48 pixels from step 22", output)
    return losses(workdir), workdir


def test_the_loss_falls_over_both_switches(never_killed):
    found, workdir = never_killed
    loss = [found[step, "loss"] for step in range(1, LAST + 1)]
    ends = [np.mean(loss[last - 4 : last]) for last in (*SWITCHES, LAST)]
    assert loss[0] > ends[0] > ends[1] > ends[2]
    for last in SWITCHES:  # no jump upwards where a stage begins
        assert loss[last] < loss[last - 1] * 1.1
    records = [48 * found[step, "epoch"] for step in (12, 13, 21, 22, 28)]
    np.testing.assert_allclose(records, [96, 112, 240, 256, 352], rtol=1e-6)
    assert len(read_baselines(workdir)) == 3
    begun = [line["step"] for line in lines(workdir) if line.get("stage") == 2]
    assert (begun[0], begun[-1]) == (SWITCHES[0] + 1, SWITCHES[1])


def test_learning_rate_follows_the_batch_and_one_cosine(never_killed):
    found, _ = never_killed
    assert 1.8 < found[13, "lr"] / found[12, "lr"] < 2  # twice the batch, a little further down
    assert found[LAST, "lr"] < 0.02 * found[13, "lr"]


def test_each_stage_is_compiled_once(never_killed, shared_stages):
    stages = [stage for stage in shared_stages.values() if stage.plan.total_steps == LAST]
    # The loop compiles ahead of the first step; a call of the jitted function would compile again.
    counts = [(len(stage.step._programs), stage.step.jitted._cache_size()) for stage in stages]
    assert counts == [(1, 0)] * 3


@pytest.mark.parametrize("step", [SWITCHES[0], 15], ids=["at a switch", "inside a stage"])
def test_interrupted_equals_never_interrupted(run, never_killed, tmp_path, step):
    """The newest checkpoint is of this step, later steps are logged; test_resume.py kills runs."""
    found, complete = never_killed
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoints").glob("[0-9]*"):
        if int(path.name) > step:
            shutil.rmtree(path)
    output = run(tmp_path)
    assert f"resuming at step {step} of 28" in output
    assert ("stage 2 of 3: 48 x 48 pixels" in output) == (step in SWITCHES)
    assert losses(tmp_path) == found


def test_resizing_changes_only_the_tables():
    config = small.over("swin", small.config(steps=9))
    config.stages.image_sizes = (64, 96)
    first, second = make_pretrain_stages(config, 48, jax.devices()[:1])
    state = first.create()
    adam = state.opt_state[1]
    squares = jax.tree.map(jnp.square, state.params)
    moments = adam._replace(mu=state.params, nu=squares, count=adam.count + 7)
    state = state.replace(opt_state=(state.opt_state[0], moments, *state.opt_state[2:]))
    grown, counts = resize_state(state, second.abstract)
    assert counts == {"relative_position_bias_table": 5}
    assert int(grown.opt_state[1].count) == int(adam.count) + 7
    jax.tree.map(lambda leaf, goal: np.testing.assert_(leaf.shape == goal.shape), grown, second.abstract)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(grown.params), strict=True
    )
    for (path, before), after in pairs:
        if path[-1].key != "relative_position_bias_table":
            np.testing.assert_array_equal(before, after)
    mean, square, table = (
        tree["encoder"]["stages_0"]["blocks"]["0"]["attn"]["relative_position_bias_table"]
        for tree in (grown.opt_state[1].mu, grown.opt_state[1].nu, grown.params)
    )
    np.testing.assert_array_equal(mean, table)  # moments are resampled like their parameter
    assert (square >= 0).all() and (np.abs(mean) <= 1.6 * np.sqrt(square)).all()


def test_cmt_resizes_its_positions_and_keeps_its_statistics():
    config = small.over("cmt", small.config(steps=9))
    config.stages.image_sizes = (64, 96)
    first, second = make_pretrain_stages(config, 48, jax.devices()[:1])
    state = first.create()
    grown, counts = resize_state(state, second.abstract)
    assert counts == {"relative_position": 4}
    assert grown.params["encoder"]["stages_0"]["relative_position"].shape == (1, 24, 24, 3, 3)
    jax.tree.map(np.testing.assert_array_equal, grown.collections, state.collections)
    flat = jax.tree.map(lambda leaf: jnp.ones_like(leaf), state)
    for leaf in jax.tree.leaves(resize_state(flat, second.abstract)[0]):
        np.testing.assert_allclose(leaf, 1, atol=1e-5)  # constants stay constant
