"""`fastmim evaluate` and `fastmim predict`: lines, CSV files, refusals."""

import csv
import shutil

import numpy as np
import pytest

from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.predict import evaluate, predict
from fastmim_jax.train.finetune import finetune
from helpers.commands import refused
from helpers.labelled_images import COLOURS, tuning_config, write_images, write_splits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

CLASSES = sorted(COLOURS)
COLUMNS = ["name", "true_class", *(f"{what}_{n}" for n in (1, 2, 3) for what in ("class", "probability"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("images"), train=12, test=8)


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    finetune(tuning_config(folder), workdir, BestCheckpoint, log=lambda line: None)
    return workdir


@pytest.fixture(scope="module")
def evaluated(workdir, tmp_path_factory):
    """(the summary, the rows of the CSV file, the log)."""
    messages, out = [], tmp_path_factory.mktemp("out") / "new" / "test.csv"
    return evaluate(workdir, out=out, log=messages.append), rows(out), messages


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_per_image_with_its_classes_in_order(evaluated, folder):
    found, lines, _ = evaluated
    assert list(lines[0]) == COLUMNS
    assert found["images"] == len(lines) == 24 and found["undecodable"] == 1
    for line in lines:
        assert line["name"].startswith(str(folder / "test" / line["true_class"]))
        probability = np.array([float(line[f"probability_{n}"]) for n in (1, 2, 3)])
        assert (np.diff(probability) <= 0).all()
        assert abs(probability.sum() - 1) < 2e-6  # all three classes, each with 6 digits
        assert {line[f"class_{n}"] for n in (1, 2, 3)} == set(CLASSES)


def test_accuracies_are_those_of_the_rows(evaluated):
    found, lines, messages = evaluated
    right = {name: [x["class_1"] == name for x in lines if x["true_class"] == name] for name in CLASSES}
    assert found["per_class"] == {name: np.mean(hits) for name, hits in right.items()}
    assert found["top1"] == np.mean(sum(right.values(), [])) > 0.5  # chance is a third
    assert found["top5"] == 1
    assert any(f"{found['top1']:.2%} top-1" in line for line in messages)
    assert any("1 image could not be decoded" in line for line in messages)
    for name in CLASSES:
        assert any(line.split() == [name, f"{np.mean(right[name]):.1%}"] for line in messages)


def test_a_single_image_is_predicted_as_within_its_folder(evaluated, workdir):
    _, lines, _ = evaluated
    messages = []
    predictions = predict(workdir, lines[9]["name"], log=messages.append)
    assert predictions.label.tolist() == [-1]
    (message,) = messages
    share = float(lines[9]["probability_1"])
    assert message.startswith(f"{lines[9]['name']}: {lines[9]['class_1']} {share:.1%}, ")


def test_images_of_other_classes_keep_their_own_class_names(workdir, tmp_path):
    """`red` and a class that the checkpoint does not have: their numbers differ from the checkpoint's."""
    other = write_images(tmp_path / "other", 2, {"red": COLOURS["red"], "yellow": (200, 200, 0)})
    messages = []
    predict(workdir, str(other), out=tmp_path / "deep" / "other.csv", log=messages.append)
    lines = rows(tmp_path / "deep" / "other.csv")
    assert [line["true_class"] for line in lines] == ["red", "red", "yellow", "yellow"]
    assert {line["class_1"] for line in lines} <= set(CLASSES)
    assert "predictions of 4 images" in messages[0] and "other.csv" in messages[0]


def test_images_without_labels(workdir, folder, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(folder / "test" / "red", flat)
    messages = []
    predict(workdir, str(flat), out=tmp_path / "flat.csv", log=messages.append)
    assert [line["true_class"] for line in rows(tmp_path / "flat.csv")] == [""] * 8
    assert messages[-1] == "1 image could not be decoded"


def test_unusable_inputs_are_refused(capsys, workdir, folder, tmp_path):
    words = [f"--workdir={workdir}"]
    message = refused(capsys, "evaluate", *words, f"--images={folder / 'test' / 'red'}")
    assert "no class folders" in message
    other = write_images(tmp_path / "other", 2, {"red": (200, 0, 0), "yellow": (200, 200, 0)})
    assert "yellow" in refused(capsys, "evaluate", *words, f"--images={other}")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.png").write_bytes(b"no image")
    assert "none of the 1 images" in refused(capsys, "predict", *words, f"--images={broken}")
    assert "type --images=FILE" in refused(capsys, "predict", *words)
    assert "config.json" in refused(capsys, "evaluate", f"--workdir={tmp_path}")
