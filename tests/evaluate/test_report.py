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
    draw_confusion,
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


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 30, 100])
def test_the_picture_has_a_dark_diagonal_where_all_is_right(tmp_path, count):
    names = [f"class {k}" for k in range(count)]
    paths = [
        draw_confusion(tmp_path / name / "confusion.png", confusion, names)
        for name, confusion in (
            ("right", 5 * np.eye(count, dtype=int)),
            ("none", np.zeros((count,) * 2, int)),
        )
    ]
    right, none = (np.asarray(Image.open(path).convert("L"), float) for path in paths)
    assert right.shape == none.shape and 400 <= max(right.shape) <= 1300
    # The same page without any image: what is darker is the diagonal, 1 / K of the square.
    darker = (none - right) > 100
    row, column = np.nonzero(darker)
    # Points of K squares in a row are correlated by 1 - 1 / K^2; letters in the squares cost a little.
    assert np.corrcoef(row, column)[0, 1] == pytest.approx(1 - count**-2, abs=0.01)
    square = np.ptp(row) * np.ptp(column)
    assert darker.sum() / square == pytest.approx(1 / count, rel=0.25)


@pytest.mark.slow
def test_a_class_without_images_is_gray(tmp_path):
    """Not the colour of a share of nothing, which is nearly white."""
    pages = [
        np.asarray(Image.open(draw_confusion(tmp_path / "x.png", counts, CLASSES)).convert("RGB"))
        for counts in (np.diag([4, 4, 4]), np.diag([4, 0, 4]))
    ]
    gray = [(page == (211, 211, 211)).all(-1).sum() for page in pages]
    square = (pages[0] == (8, 48, 107)).all(-1).sum() / 3
    assert gray[0] < 0.01 * square and gray[1] == pytest.approx(3 * square, rel=0.1)


def test_the_report_is_written(predictions, source, tmp_path):
    messages = write_report(40, predictions, source, CLASSES, tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["step"] == 40 and found["per_class"]["cat, the tame one"] is None
    assert (tmp_path / "confusion.csv").read_text().startswith("true,ant,bee,")
    assert Image.open(tmp_path / "pictures" / "confusion.png").width > 300
    assert "step 40" in messages[0] and "confusion.png" in messages[-1]
