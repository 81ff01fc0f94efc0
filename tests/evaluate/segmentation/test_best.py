"""Metrics of an evaluation of segmentation; tests/train/test_segment.py has whole runs."""

import numpy as np
import pytest

from fastmim_jax.evaluate.segmentation.best import BestSegmentation, Measured
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.evaluate.segmentation.segment_images import SegmentationResult


def measured(confusion):
    confusion = np.array(confusion)
    return Measured(SegmentationResult(confusion, 1, []), scores(confusion), [])


@pytest.fixture
def best():
    return object.__new__(BestSegmentation)


def test_metrics_are_shares(best):
    found = best.metrics(measured([[3, 1], [0, 0]]))
    assert found == {"miou": 0.375, "pixel_accuracy": 0.75, "mean_class_accuracy": 0.75}


def test_without_labelled_pixels_the_score_is_0_and_nothing_else_is_logged(best):
    assert best.metrics(measured([[0, 0], [0, 0]])) == {"miou": 0.0}
