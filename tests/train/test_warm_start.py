"""Pre-training that starts from the parameters of another run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.train.pretrain import make_pretrain_stage, pretrain
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.state import initial_state
from fastmim_jax.train.warm_start import has_checkpoint, transfer_report, warm_start
from helpers import small
from helpers.stages import untrained

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    small.write_images(folder, 20)
    return folder


@pytest.fixture(scope="module")
def begun(images, tmp_path_factory):
    """A work directory of FastMIM from another seed."""
    config = small.config(images, steps=3)
    config.seed = 1
    return untrained(config, tmp_path_factory.mktemp("runs") / "before", step=3)


def after(images, workdir, **method):
    config = small.config(images, steps=2)
    config.init = str(workdir)
    config.method.update(method)
    return config


def parameters(variables):
    return flatten_dict(jax.device_get(variables["params"]), sep="/")


@pytest.mark.parametrize("target", ["hog", "pixel"])
def test_fitting_parameters_are_loaded_and_the_rest_starts_fresh(images, begun, target):
    config, saved = after(images, begun, target=target), load_run(begun)
    state = make_pretrain_stage(config, 20, loaded=saved).create()
    fresh = make_pretrain_stage(config, 20).create()
    found, theirs = parameters({"params": state.params}), parameters(saved.variables)
    own = parameters({"params": fresh.params})
    for name, value in found.items():
        expected = own if target == "pixel" and name.startswith("decoder/pred") else theirs
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert any((theirs[name] != own[name]).any() for name in theirs if name.startswith("encoder"))
    assert int(state.step) == 0


def test_a_run_logs_its_start_and_resumes_without_it(images, begun, tmp_path):
    messages, config = [], after(images, begun, target="pixel")
    config.schedule.steps = 4
    assert pretrain(config, tmp_path / "run", log=messages.append) == 4
    text = "\n".join(messages)
    assert f"start  {begun}" in text and "start fresh  decoder" in text
    messages.clear()
    assert pretrain(config, tmp_path / "run", log=messages.append) == 4
    assert "resuming at" in "\n".join(messages) and "start  " not in "\n".join(messages)


def test_a_start_of_another_backbone_is_refused(images, begun, tmp_path):
    config = small.over("swin", after(images, begun))
    with pytest.raises(UserError, match="give a checkpoint of the same backbone"):
        pretrain(config, tmp_path / "run", log=lambda text: None)
    assert not (tmp_path / "run").exists()


def test_only_complete_checkpoints_count(tmp_path):
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "12.incomplete").mkdir(parents=True)
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "12").mkdir()
    assert has_checkpoint(tmp_path)


def tiny_state(with_ema):
    """-> (a state with zeros for parameters, its shapes with shardings, its optimizer)."""
    encoder = {"kernel": jnp.zeros((2, 3)), "norm": {"scale": jnp.zeros(3)}}
    variables = {"params": {"encoder": encoder, "head": {"bias": jnp.zeros(4)}}}
    variables["batch_stats"] = {"encoder": {"norm": {"mean": jnp.zeros(3)}}}

    def optimizer_of(params):
        return optax.sgd(0.1, momentum=0.9)

    def shape_of(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    state = initial_state(variables, optimizer_of, with_ema)
    return state, jax.tree.map(shape_of, state), optimizer_of


@pytest.mark.parametrize("with_ema", [False, True])
def test_moving_averages_and_statistics_start_from_the_loaded_values(with_ema):
    state, abstract, optimizer_of = tiny_state(with_ema)
    encoder = {"kernel": np.ones((2, 3), np.float32), "norm": {"scale": np.full(3, 2.0, np.float32)}}
    loaded = {"params": {"encoder": encoder, "head": {"bias": np.ones(5, np.float32)}}}
    loaded["batch_stats"] = {"encoder": {"norm": {"mean": np.full(3, 4.0, np.float32)}}}
    started = warm_start(loaded, state, optimizer_of, abstract)
    expected = {"encoder": encoder, "head": {"bias": np.zeros(4)}}  # a head for other classes
    jax.tree.map(np.testing.assert_array_equal, started.params, expected)
    jax.tree.map(np.testing.assert_array_equal, started.collections, {"batch_stats": loaded["batch_stats"]})
    averages = {"params": started.params, "collections": started.collections} if with_ema else {}
    jax.tree.map(np.testing.assert_array_equal, started.ema, averages)
    assert not any(np.any(x) for x in jax.tree.leaves(started.opt_state))
    report = transfer_report(loaded, abstract)
    assert report.fresh == ["params/head/bias"] and report.unused == ["params/head/bias"]
    assert "batch_stats/encoder/norm/mean" in report.loaded and not report.resampled


def test_a_report_refuses_what_a_start_would_refuse():
    _, abstract, _ = tiny_state(with_ema=False)
    other = {"params": {"encoder": {"kernel": np.ones((2, 4), np.float32)}}}
    with pytest.raises(
        UserError, match="'params/encoder/kernel' is .2, 4. in the source and .2, 3. in the"
    ):
        transfer_report(other, abstract)


@pytest.mark.parametrize(
    ("name", "found"), [("800", True), ("²", False), ("-5", False), ("8.orbax-tmp", False)]
)
def test_a_checkpoint_is_a_folder_named_by_its_step(tmp_path, name, found):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert has_checkpoint(tmp_path) is found
