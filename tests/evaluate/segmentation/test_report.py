"""The report of a segmentation: lines, a table of classes, and files."""

import json

import numpy as np
import pytest

from fastmim_jax.evaluate.segmentation.report import describe, summarize, write_report
from fastmim_jax.evaluate.segmentation.segment_images import SegmentationResult

RESULT = SegmentationResult(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]]), 3, [("bad.png", "size: 1 x 1")])
CLASSES = ("sky", "tree", "never")


def test_a_class_that_is_nowhere_has_no_score():
    summary = summarize(RESULT, "data", CLASSES)
    assert summary["per_class"]["never"]["iou"] is None and summary["per_class"]["sky"]["iou"] == 0.75
    assert summary["miou"] == 0.625 and summary["pixel_accuracy"] == 0.8
    lines = "\n".join(describe(summary))
    assert "mIoU 62.50%, pixel accuracy 80.00%, mean class accuracy 87.50% of 3 images" in lines
    assert "1 could not be read" in lines and "never" not in lines and "sky  IoU  75.00%" in lines


@pytest.mark.slow
def test_files_of_the_report(tmp_path):
    lines = write_report(7, RESULT, "data", CLASSES, tmp_path)
    assert lines[0].startswith("best checkpoint: step 7")
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 7
    rows = (tmp_path / "classes.csv").read_text().splitlines()
    assert rows[0] == "class,iou,accuracy,share" and rows[3] == "never,,,0.000000"
    assert (tmp_path / "confusion.csv").exists() and (tmp_path / "pictures" / "confusion.png").exists()


def test_many_classes_are_listed_in_part():
    confusion = np.eye(50, dtype=np.int64)
    names = tuple(f"class {index}" for index in range(50))
    lines = list(describe(summarize(SegmentationResult(confusion, 1, []), "data", names)))
    assert len(lines) == 22 and "30 more classes" in lines[11]
