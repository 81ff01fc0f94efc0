"""The range of values of a run: measured at its start, kept, and used by all that follows."""

import json

import numpy as np
import pytest
import tifffile

from fastmim_jax.auto_schedule import set_auto
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.features import write_features
from fastmim_jax.io import append_json_line
from fastmim_jax.train.data_values import settle_schedule, settle_values
from fastmim_jax.train.finetune import finetune
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.workdir import prepare_workdir
from helpers import small

pytestmark = pytest.mark.usefixtures("one_device")


def write_images(folder, scale=1, highest=4095):
    """Two classes of 8 images of 12 bits."""
    y, x = np.mgrid[:40, :40]
    for number in range(16):
        path = folder / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.sin(x / (2 + number) + y / (3 + number % 2 * 5))
        pixels = np.rint((wave * 0.5 + 0.5) * highest * scale).astype(np.uint16)
        tifffile.imwrite(path, np.stack([pixels, pixels // 2, pixels // 4], -1), photometric="rgb")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """Work directory and printed lines of a run, which is then resumed."""
    workdir, lines = tmp_path_factory.mktemp("work") / "run", []
    config = small.config(images, steps=2)
    assert pretrain(config, workdir, log=lines.append) == 2
    first = len(lines)
    assert pretrain(config, workdir, log=lines.append) == 2
    return workdir, lines[:first], lines[first:]


@pytest.mark.slow
def test_a_run_measures_once_and_keeps_the_range(run, images):
    workdir, lines, resumed = run
    low, high = json.loads((workdir / "config.json").read_text())["data"]["value_range"]
    assert (low, high) == (0, 4095)
    text = "uint16; range 0 to 4095, measured on 16 of 16 records"
    assert any(text in line and "the network gets uint16" in line for line in lines)
    assert any(text in line for line in resumed) and not any("measuring" in line for line in resumed)
    assert lines[-1] == "no value of 32 images read was outside of the range"
    metrics = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (metrics["clipped_share"], metrics["missing_share"]) == (0, 0)
    content = json.loads((workdir / "values.json").read_text())
    assert content["scan"]["highest"] == [4095, 2047, 1023]
    config = small.config(images, steps=2)
    config.data.value_range = (0, 65535)
    with pytest.raises(UserError, match=r"config.data.value_range was \[0.0, 4095.0\], is \[0, 65535\]"):
        pretrain(config, workdir, log=lambda line: None)


@pytest.mark.slow
def test_features_and_fine_tuning_have_the_values_of_the_run(run, images, tmp_path):
    workdir, *_ = run
    write_features(workdir, open_source(images), tmp_path / "of.npz", log=lambda line: None)
    assert np.load(tmp_path / "of.npz")["name"].shape == (16,)
    other, lines = write_images(tmp_path / "other", highest=60000), []
    config = small.tuning(other, workdir, steps=1)
    config.data.eval_path, config.augment.magnitude = str(other), 0.0
    finetune(config, tmp_path / "tuned", BestCheckpoint, lines.append)
    assert any("the range is that of the run in config.init" in line for line in lines)
    assert any("while 0 to 4095 become black and white" in line for line in lines)
    tuned = load_run(tmp_path / "tuned").config.data
    assert (tuple(tuned.value_range), tuned.pixel_dtype) == ((0, 4095), "uint16")


def test_randaugment_works_on_8_bits(images):
    values = settle_values(small.tuning(images), open_source(images))
    assert values.config.data.pixel_dtype == "uint8" and values.config.data.value_range == (0, 4095)
    assert values.notes[0][1].endswith("the network gets uint8")


def test_a_run_from_before_keeps_its_8_bits(images, tmp_path):
    config = small.config(images)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    saved = config.to_dict()
    del saved["data"]["pixel_dtype"], saved["data"]["nodata"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert settle_values(config, open_source(images), tmp_path).config.to_json() == config.to_json()


def test_a_schedule_stays_as_the_run_was_begun_with(tmp_path):
    config = small.config()
    set_auto(config)
    begun, reasons = settle_schedule(config, 1000, tmp_path)
    assert begun.schedule.batch_size == 32 and len(reasons) == 4
    prepare_workdir(tmp_path, begun)
    append_json_line(tmp_path / "metrics.jsonl", {"step": 1})
    resumed, reasons = settle_schedule(config, 100_000, tmp_path)  # the data has grown
    assert resumed.to_dict() == begun.to_dict() and len(reasons) == 1
    prepare_workdir(tmp_path, resumed)
    assert settle_schedule(begun, 10, tmp_path).config is begun
