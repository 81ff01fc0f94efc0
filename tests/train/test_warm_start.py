"""Pre-training that starts from the parameters of another run."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.train.pretrain import make_pretrain_stage, pretrain
from fastmim_jax.train.runs import load_run
from helpers import small


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    small.write_images(folder, 20)
    return folder


@pytest.fixture(scope="module")
def begun(images, tmp_path_factory):
    """The work directory of three steps of FastMIM."""
    workdir = tmp_path_factory.mktemp("runs") / "before"
    pretrain(small.config(images, steps=3), workdir, log=lambda text: None)
    return workdir


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
