"""Runs from start to end in this process: other channels, shapes and targets, and refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json_lines
from fastmim_jax.tools.reconstruct import draw_loss_curve, picture_hook, reconstruct
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.report import summarize
from helpers import small, stages
from helpers.sweeps import sweep

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

RANDOM = np.random.default_rng(0)


def folder_of(path, channels):
    """40 smooth random images: PNG for 1 and 3 channels, .npy for others."""
    path.mkdir()
    for index in range(40):
        coarse = RANDOM.integers(0, 256, (5, 6, channels), dtype=np.uint8)
        pixels = coarse.repeat(12, 0).repeat(12, 1)
        if channels in (1, 3):
            Image.fromarray(pixels.squeeze()).save(path / f"{index:02}.png")
        else:
            np.save(path / f"{index:02}.npy", pixels)
    return path


@pytest.mark.parametrize(("channels", "target"), sweep([(1, "hog"), (5, "pixel")], [(5, "pixel")]))
def test_any_channels_and_shape_from_folder_to_picture(tmp_path, channels, target):
    data = folder_of(tmp_path / "images", channels)
    config = small.config(data, steps=6)
    config.data.update(channels=channels, image_size=(32, 48), eval_split="test")
    config.method.target = target
    config.run.picture_every = 3
    workdir, messages = tmp_path / "work", []
    assert pretrain(config, workdir, [picture_hook], messages.append) == 6
    assert f"{channels} channels" in "\n".join(messages) and messages[-1] == "every record was decoded"
    assert any(line.startswith("no held-out loss") for line in messages)  # there is no such split
    pictures = sorted(path.name for path in (workdir / "pictures").glob("*.png"))
    assert pictures == ["curve.png", "step_0000003.png", "step_0000006.png"]
    (events,) = (workdir / "tensorboard").glob("events*")
    assert events.read_bytes().count(b"reconstructions") == 2
    assert Image.open(draw_loss_curve(workdir)).size[0] > 400
    drawn = reconstruct(workdir, images=str(data), count=2)
    assert Image.open(drawn).size[1] > 200 and drawn.name == "reconstruct_0000006.png"
    found = summarize(workdir)
    assert found.steps == 6 and found.train_loss > 0 and found.baselines["training"]["zero"] > 0


def test_a_run_of_non_finite_updates_stops(tmp_path, monkeypatch):
    config = small.config(folder_of(tmp_path / "images", 1), steps=50)
    config.data.channels = 1
    config.run.max_skipped = 3
    nan = lambda prediction, target, mask: jnp.nan * prediction.mean()  # noqa: E731
    monkeypatch.setattr("fastmim_jax.mim.fastmim.FastMIM.loss_fn", staticmethod(nan))
    with pytest.raises(UserError, match="3 updates in a row were not finite, up to step 3"):
        pretrain(config, tmp_path / "work", log=lambda text: None)
    lines = (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["skipped"] == 2  # of the last step that was logged


def test_only_a_fitting_checkpoint_is_resumed(tmp_path):
    config = small.config(folder_of(tmp_path / "images", 3), steps=3)
    stages.untrained(config, tmp_path / "work", 40, step=3)
    config.schedule.batch_size = 8
    with pytest.raises(UserError, match="schedule.batch_size was 16, is 8"):
        pretrain(config, tmp_path / "work", log=lambda text: None)
    (tmp_path / "work" / "config.json").write_text(config.to_json())
    with pytest.raises(UserError, match="was saved at record 48, not at 24 as with batches of 8"):
        pretrain(config, tmp_path / "work", log=lambda text: None)


@pytest.mark.exhaustive
def test_a_mixing_run_resumes_to_the_bit(tmp_path):
    config = small.mixmim(small.config(folder_of(tmp_path / "images", 3), steps=6))
    config.run.keep = 9
    messages = []
    with stages.shared():
        pretrain(config, tmp_path / "complete", log=lambda text: None)
        shutil.copytree(tmp_path / "complete", tmp_path / "killed")
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / "6")
        assert pretrain(config, tmp_path / "killed", log=messages.append) == 6
    assert any("resuming at step 3 of 6" in line for line in messages)
    logs = [read_json_lines(tmp_path / name / "metrics.jsonl").records for name in ("complete", "killed")]
    names = ("step", "loss", "grad_norm", "lr")
    complete, killed = ([[line[name] for name in names] for line in log] for log in logs)
    assert complete == killed and len(complete) == 6
    assert Image.open(reconstruct(tmp_path / "killed", count=4)).size[0] > 4 * 256


def test_one_device_reads_a_checkpoint_of_eight(tmp_path, all_devices):
    config = small.config(folder_of(tmp_path / "images", 3), steps=3)
    config.run.mesh_fsdp = 8
    stages.untrained(config, tmp_path / "work", 40)
    assert len(jax.devices()) == 8
    assert reconstruct(tmp_path / "work", count=3).exists()
