"""The report of an evaluation: lines, numbers and a picture."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate.classify import Predictions
from fastmim_jax.evaluate.report import (
    confusion_csv,
    describe,
    per_class,
    summarize,
    write_report,
)
from helpers.labelled_images import write_images

CLASSES = ("ant", "bee", "cat, the tame one")
TRUE, BEST = [0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]  # nothing of the third class


@pytest.fixture
def predictions():
    best = np.stack([BEST, np.full(6, 2)], axis=1)
    rank = (np.array(BEST) != TRUE).astype(int)
    loss = np.arange(6, dtype=np.float32)
    return Predictions(np.arange(6), np.array(TRUE), best, np.full((6, 2), 0.4), rank, loss, bad=2)


@pytest.fixture
def source(tmp_path):
    return open_source(str(write_images(tmp_path / "images", 2)))


def test_a_class_without_images_has_no_accuracy(predictions, source):
    np.testing.assert_array_equal(per_class(predictions.confusion(3)), [0.75, 0.5, np.nan])
    found = summarize(predictions, source, CLASSES)
    assert found["per_class"] == dict(zip(CLASSES, (0.75, 0.5, None), strict=True))
    assert (found["images"], found["undecodable"], found["top1"], found["top5"]) == (6, 2, 4 / 6, 1)
    assert found["loss"] == 2.5


def test_lines(predictions, source):
    first, second, third = describe(summarize(predictions, source, CLASSES))
    assert first == "66.67% top-1, 100.00% top-5 of 6 images, cross-entropy 2.5000"
    assert second == "2 images could not be decoded: not counted"
    assert third == "worst classes: bee 50.0%, ant 75.0%; best: ant 75.0%"


def test_rows_are_true_classes_and_columns_the_likeliest(predictions):
    lines = list(csv.reader(io.StringIO(confusion_csv(predictions.confusion(3), CLASSES))))
    assert lines == [
        ["true", *CLASSES],
        ["ant", "3", "1", "0"],
        ["bee", "1", "1", "0"],
        ["cat, the tame one", "0", "0", "0"],
    ]


def test_the_report_is_written(predictions, source, tmp_path):
    messages = write_report(40, predictions, source, CLASSES, tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["step"] == 40 and found["per_class"]["cat, the tame one"] is None
    assert (tmp_path / "confusion.csv").read_text().startswith("true,ant,bee,")
    assert Image.open(tmp_path / "pictures" / "confusion.png").width > 300
    assert "step 40" in messages[0] and "confusion.png" in messages[-2] and "curve.png" in messages[-1]
