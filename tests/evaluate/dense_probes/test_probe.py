"""`fastmim probe --kinds=segmentation,knn_segmentation,depth`: from a folder to table and picture."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.dense_probes import linear, material
from fastmim_jax.evaluate.dense_probes.patch_features import (
    COLORS,
    PatchFeatures,
    choose_layers,
    mean_colors,
)
from fastmim_jax.evaluate.dense_probes.probe import (
    are_dense,
    check_eval_mode,
    check_kinds,
    dense_probe,
)
from fastmim_jax.evaluate.dense_probes.table import KINDS
from fastmim_jax.evaluate.dense_probes.whole_images import WholeImages
from helpers import small, stages
from helpers.commands import refused
from helpers.mask_files import save, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

LAYERS = ["block 1", "block 2", COLORS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, drawn masks, and depths that are a function of the class."""
    root = tmp_path_factory.mktemp("masks")
    for index, (_, mask) in enumerate(write_folder(root, 25)):
        depth = np.array([4000, 1000, 2000], np.uint16)[mask]
        depth[0] = 0
        save(root / "depths" / f"{index:02}.png", depth)
    return root


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, one_device):
    config = small.config()
    config.data.image_size = (32, 48)
    return stages.untrained(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def fewer_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "EPOCHS", 1)
        patch.setattr(linear, "MIN_STEPS", 60)
        yield


@pytest.fixture(scope="module")
def table(folder, workdir, tmp_path_factory, fewer_steps):
    """(table, log, folder of the JSON file) of all kinds."""
    messages, out = [], tmp_path_factory.mktemp("out")
    found = dense_probe(workdir, str(folder), kinds=KINDS, out=out / "dense.json", log=messages.append)
    return found, messages, out


def test_table(table, workdir):
    found, messages, out = table
    lines = found.lines
    kinds = ["segmentation"] * 4 + ["knn_segmentation"] * 3 + ["depth"] * 4
    assert [line.kind for line in lines] == kinds
    assert [line.layer for line in lines[:4]] == [*LAYERS, "always class 0"]
    content = json.loads((out / "dense.json").read_text())
    assert content["classes"] == ["class 0", "class 1", "class 2"] and len(content["dense"]) == len(lines)
    assert content["dense"][3]["held_out"] is None and content["dense"][3]["iou"] == []
    assert content["checkpoint"].startswith(str(workdir))
    text = "\n".join(messages)
    for part in (
        "16 images of MaskedFiles",
        "4 to choose the layer and the learning rate by, tested on 5 of",
        "<- best on the images to choose by",
        "IoU of the classes",
        "  class 0",
        "segmentation.png (image, truth, prediction of block",
    ):
        assert part in text, part
    assert (out / "pictures" / "segmentation.png").exists() and (out / "pictures" / "depth.png").exists()


def test_windows_over_images_of_any_size(folder, workdir, tmp_path, fewer_steps, monkeypatch):
    monkeypatch.setattr(linear, "MIN_STEPS", 2)
    messages, options = [], dict(layers=("block 2",), eval_mode="slide", eval_resize=40)
    lines = dense_probe(
        workdir, str(folder), kinds=("depth",), out=tmp_path / "d.json", log=messages.append, **options
    )
    assert lines.layers[:2] == ["block 2", COLORS] and 0 < lines.scores("rmse")[0] < 3
    text = "windows of 32 x 48 pixels over images whose short side is 40, at the size of each image"
    assert any(f"evaluated on {text}" in line for line in messages)
    assert json.loads((tmp_path / "d.json").read_text())["evaluated_on"] == text
    assert (tmp_path / "pictures" / "depth.png").exists()


def test_it_learns_drawn_shapes(table):
    of = {(line.kind, line.layer): line.scores for line in table[0]}
    majority = of["segmentation", "always class 0"]
    assert majority["mIoU"] == pytest.approx(majority["pixels"] / 3)
    for kind in ("segmentation", "knn_segmentation"):
        best = max(of[kind, layer]["mIoU"] for layer in LAYERS[:2])
        assert best > majority["mIoU"] + 0.2
    assert 0 < of["depth", "block 1"]["rmse"] < 3 and of["depth", "always 4.00 m"]["d1"] > 0.3


def test_devices_agree(folder, workdir, all_devices):
    task = material.open_segmentation(str(folder), None, 100)
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        stage = open_backbone(workdir, devices=devices)[1]
        features = PatchFeatures(stage, ("block 2",))
        probe = linear.train(features, task, steps=3)
        lines, constant = linear.score_layers(WholeImages(features), task, probe)
        found.append((lines, constant))
    (one, constant), (eight, same) = found
    assert constant == same
    for line, other in zip(one, eight, strict=True):
        assert (
            line.counts.sum() == other.counts.sum() == 5 * 32 * 48
        )  # every pixel of 5 images in batches of 16
        assert abs(line.counts - other.counts).sum() <= 10  # rounding at the borders of classes


def test_layers():
    names = tuple(f"block {k}" for k in range(1, 13))
    assert choose_layers(names) == ("block 3", "block 6", "block 9", "block 12")
    assert choose_layers(names[:2]) == names[:2] and choose_layers(names, names[:1]) == names[:1]
    with pytest.raises(UserError, match="no layer 'stage 1'; choose from: block 1, "):
        choose_layers(names, ("stage 1",))


def test_mean_colours():
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 6, 3), np.uint8)
    found = np.asarray(mean_colors(images, (2, 3)))
    cell = images[1, 2:4, 4:6].reshape(4, 3) / 255
    expected = [
        *cell.mean(0),
        *(cell**2).mean(0),
        *[(cell[:, a] * cell[:, b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))],
    ]
    np.testing.assert_allclose(found[1, 1, 2], expected, rtol=1e-5)


def test_kinds():
    assert are_dense(["depth", "segmentation"]) and not are_dense(["ridge"]) and not are_dense([])
    with pytest.raises(UserError, match="depth need images with masks and ridge labelled images"):
        are_dense(["ridge", "depth"])
    with pytest.raises(UserError, match="no dense probe 'x'; choose from: segmentation"):
        check_kinds(["x"])


def test_modes():
    with pytest.raises(UserError, match="--eval_mode is 'slid'; choose from: whole, slide; did you mean"):
        check_eval_mode("slid", None)
    with pytest.raises(UserError, match="leave it out, or type --eval_mode=slide"):
        check_eval_mode("whole", 64)


def test_refusals(folder, workdir, tmp_path, capsys):
    words = ["probe", f"--workdir={workdir}", "--kinds=segmentation"]
    assert "type --images=DIR" in refused(capsys, *words)
    assert "images/ and masks/" in refused(capsys, *words, f"--images={tmp_path}")
    message = refused(capsys, "probe", f"--workdir={workdir}", "--eval_mode=slide")
    assert "--eval_mode is for probes of pixels: leave it out, or type --kinds=segmentation" in message
    assert "leave out --folds" in refused(capsys, *words, f"--images={folder}", "--folds=3")
    write_folder(tmp_path, 4)
    assert "4 images are too few" in refused(capsys, *words, f"--images={tmp_path}")


def test_gray_backbones_are_refused(workdir):
    stage = open_backbone(workdir)[1]
    stage = dataclasses.replace(stage, reader=dataclasses.replace(stage.reader, channels=1))
    with pytest.raises(UserError, match="reads 1 channels of uint8, expected RGB of 8 bits"):
        PatchFeatures(stage, ("block 1",))


def test_numbers_of_steps(monkeypatch):
    monkeypatch.setattr(linear, "EPOCHS", 60)
    assert linear.number_of_steps(1000, 16) == 3750
    assert linear.number_of_steps(20_210, 16) == linear.MAX_STEPS
    assert linear.number_of_steps(5, 16) == linear.MIN_STEPS
