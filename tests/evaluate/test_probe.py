"""`fastmim probe`: the features, the choice of a layer, the table and its file."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate import probe as probes
from fastmim_jax.evaluate.backbone import Features, backbone_variables, make_backbone_stage, open_backbone
from fastmim_jax.evaluate.probe import (
    KINDS,
    Images,
    Material,
    extract,
    open_parts,
    probe,
    probe_layer,
    ridge_lines,
)
from fastmim_jax.evaluate.probes.result import ProbeResult
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small, stages
from helpers.commands import refused
from helpers.labelled_images import (
    COLOURS,
    tuning_config,
    untrained,
    write_images,
    write_splits,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

LAYERS = ["block 1 mean", "block 1 cls", "block 2 mean", "block 2 cls"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("images"), train=20, test=8)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    return stages.untrained(small.config(folder), tmp_path_factory.mktemp("run"), step=8)


@pytest.fixture(scope="module")
def table(workdir, tmp_path_factory):
    """(the lines of all kinds, the log, the JSON file, the numbers of images done)."""
    messages, done, out = [], [], tmp_path_factory.mktemp("out") / "new" / "probe.json"
    lines = probe(workdir, kinds=KINDS, out=out, log=messages.append, progress=done.append)
    return lines, messages, json.loads(out.read_text()), done


@pytest.fixture(scope="module")
def material(workdir, folder):
    loaded, backbone = open_backbone(workdir)
    parts, _ = open_parts(loaded.config.data, str(folder), None, 0, 1000)
    return extract(backbone, parts)


def test_every_kind_tells_colours_apart(table):
    lines, *_ = table
    assert {line.kind for line in lines} == set(KINDS)
    for line in lines:
        assert len(line.accuracies) == 1 and line.accuracies[0] > 0.9, line


def test_ridge_reads_every_layer_and_pooling_and_the_others_the_best_and_the_last(table):
    lines, _, found, _ = table
    assert [line.layer for line in lines if line.kind == "ridge"] == LAYERS
    wanted = {found["best_layer"], LAYERS[-2]}
    for kind in ("knn", "linear"):
        assert {line.layer for line in lines if line.kind == kind} == wanted
    tokens = {re.sub(" (mean|cls)$", " tokens", layer) for layer in wanted}
    assert {line.layer for line in lines if line.kind == "attentive"} == tokens


def test_the_file_holds_what_was_printed(table, workdir):
    lines, messages, found, _ = table
    assert found["checkpoint"] == str(workdir / "checkpoints" / "8")
    printed = [re.split(r"\s{2,}", line.strip()) for line in messages if line.split()[0] in KINDS]
    assert len(printed) == len(lines) == len(found["lines"])
    for (kind, layer, accuracy, *_), line in zip(printed, found["lines"], strict=True):
        assert (kind, layer) == (line["kind"], line["layer"])
        assert accuracy == f"{np.mean(line['accuracies']):.2%}"
    (marked,) = [line for line in messages if "<- best" in line]
    assert found["best_layer"] in marked and "ridge" in marked


def test_images_that_cannot_be_decoded_are_left_out_and_counted(table, material):
    _, messages, _, done = table
    assert "2 images could not be decoded: left out" in messages
    assert material.bad == 2 and max(done) == 61
    train, test = (material.features(images.source) for images in material.parts[0])
    assert len(train.index) == len(train.label) == 60 and len(test.index) == 24
    np.testing.assert_array_equal(np.bincount(test.label), [8, 8, 8])


def test_ridge_lines_are_those_of_scikit_learn(material):
    train, test = (material.features(images.source) for images in material.parts[0])
    # Colours are easy: labels that a line cannot fit make the accuracies tell penalties apart.
    random = np.random.default_rng(0)
    noisy = [
        dataclasses.replace(x, label=(x.label + (random.random(len(x.label)) < 0.4)) % 3)
        for x in (train, test)
    ]
    of = dict(zip(map(id, (images.source for images in material.parts[0])), noisy, strict=True))
    lines = ridge_lines(material._replace(features=lambda source: of[id(source)]))
    for line in lines:
        penalty = float(line.setting.removeprefix("penalty "))
        x, y = (found.of[line.layer].astype(np.float64) for found in noisy)
        scale = StandardScaler().fit(x)
        model = RidgeClassifier(alpha=penalty * len(x), solver="svd").fit(
            scale.transform(x), noisy[0].label
        )
        assert line.accuracies == [model.score(scale.transform(y), noisy[1].label)]
    assert any(line.accuracies[0] < 0.9 for line in lines)


def test_the_best_layer_is_chosen_on_training_images(monkeypatch, material, workdir):
    """Layer 1 tells the training images only, layer 2 the test images and half of the training ones."""
    random, part = np.random.default_rng(0), material.parts[0]

    def made(source, good):
        found = material.features(source)
        right = np.eye(3)[found.label] + 0.01 * random.normal(size=(len(found.label), 3))
        blurred = np.where(
            random.random((len(right), 1)) < 0.5, right, right[random.permutation(len(right))]
        )
        layers = (right, blurred) if good == 1 else (random.normal(size=right.shape), right)
        return dataclasses.replace(found, of={f"block {n} mean": x for n, x in enumerate(layers, 1)})

    of = {id(part[0].source): made(part[0].source, 1), id(part[1].source): made(part[1].source, 2)}
    fake = material._replace(features=lambda source: of[id(source)])
    monkeypatch.setattr(probes, "extract", lambda *_: fake)
    messages = []
    lines = probe(workdir, kinds=("ridge", "knn"), log=messages.append)
    first, second = (line for line in lines if line.kind == "ridge")
    assert first.held_out > 0.95 > second.held_out and first.accuracies < second.accuracies
    assert "block 1 mean" in next(line for line in messages if "<- best" in line)
    assert lines[2].layer == "block 1 mean"


def test_folds_test_every_image_once_and_train_on_the_others(folder, workdir):
    config = small.config(folder)
    parts, description = open_parts(config.data, str(folder), None, 4, 50)
    assert description.startswith("4 folds of 50")
    tested = np.concatenate([test.records for _, test in parts])
    assert len(tested) == len(set(tested.tolist())) == 50
    for train, test in parts:
        assert set(train.records.tolist()) == set(tested.tolist()) - set(test.records.tolist())
    alone, description = open_parts(config.data, str(folder / "train"), None, 0, 1000)
    assert len(alone) == 5 and description.startswith("5 folds of 61")

    lines = probe(workdir, str(folder / "train"), kinds=("ridge",), folds=3, log=lambda line: None)
    assert all(len(line.accuracies) == 3 and min(line.accuracies) > 0.8 for line in lines)


def test_of_every_fold_a_probe_sees_its_own_images(monkeypatch, folder):
    source, bad = open_source(str(folder), "train"), 60
    index = np.delete(np.arange(61), bad)
    label = np.array([source.label(int(i)) for i in index])
    found = Features({"block 1 mean": index[:, None].astype(float)}, label, index, 1)
    parts, _ = open_parts(small.config(folder).data, str(folder), None, 4, 1000)
    seen = []

    def note(train, test, classes):
        seen.append((train, test))
        return ProbeResult(0.5, "", 1.0, {})

    monkeypatch.setitem(probes.ON_FEATURES, "ridge", note)
    probe_layer("ridge", "block 1 mean", Material(None, parts, lambda source: found, 3))
    for pairs, part in zip(seen, parts, strict=True):
        for (x, labels), images in zip(pairs, part, strict=True):
            np.testing.assert_array_equal(x[:, 0], np.setdiff1d(images.records, [bad]))
            assert labels.tolist() == [source.label(int(i)) for i in x[:, 0]]


def test_the_stages_of_a_pyramid(folder):
    config = small.over("swin", small.config(folder))
    devices = jax.devices()[:1]
    stage = make_pretrain_stage(config, 64, devices)
    variables = backbone_variables(stage.create().eval_variables())
    backbone = make_backbone_stage(stage.model.encoder, variables, stage.reader, 32, devices)
    source = open_source(str(folder), "test")
    part = (Images(source, np.arange(len(source))),) * 2
    lines = ridge_lines(extract(backbone, [part]))
    assert [line.layer for line in lines] == [f"stage {number} mean" for number in range(1, 5)]
    assert lines[0].accuracies[0] > 0.9
    widths = [backbone.features(source, records=np.array([0])).of[line.layer].shape[1] for line in lines]
    assert widths == [16, 32, 64, 128]


def test_a_fine_tuned_run_can_be_probed_and_a_missing_norm_is_noted(folder, workdir, tmp_path):
    config = tuning_config(folder, workdir)
    config.model.pooling = "pool_norm"
    tuned = untrained(config, tmp_path / "tuned", 60, tuple(COLOURS))
    messages = []
    lines = probe(tuned, str(folder), kinds=("ridge",), log=messages.append)
    assert [line.layer for line in lines] == LAYERS and min(line.accuracies[0] for line in lines) > 0.9
    assert any("normalised without learned factors" in line for line in messages)


def test_unusable_inputs_are_refused(capsys, folder, workdir, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "one.png").write_bytes((folder / "test" / "red" / "00.png").read_bytes())
    other = write_images(tmp_path / "other", 2, {"red": (200, 0, 0), "yellow": (200, 200, 0)})
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((workdir / "config.json").read_text())
    words = ["probe", f"--workdir={workdir}"]
    assert "no class folders" in refused(capsys, *words, f"--images={flat}")
    assert "no probe 'rigde'; choose from: ridge, knn" in refused(capsys, *words, "--kinds=knn,rigde")
    assert "yellow" in refused(capsys, *words, f"--images={folder}", f"--test={other}")
    assert "holds no checkpoint yet" in refused(capsys, "probe", f"--workdir={empty}")
    assert "has no config.json" in refused(capsys, "probe", f"--workdir={flat}")
    assert "no checkpoint of step 5" in refused(capsys, *words, "--step=5")
