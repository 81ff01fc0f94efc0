"""Confusion matrices and scores against a short reference and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from fastmim_jax.evaluate.segmentation.scores import confusion, scores


def reference(predicted, mask, classes):
    """-> confusion (K, K) as nested loops count it, IoU of each class, mIoU and pixel accuracy."""
    counts = [[0] * classes for _ in range(classes)]
    for p, m in zip(predicted.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if m >= 0:
            counts[m][p] += 1
    ious = []
    for k in range(classes):
        hits, true = counts[k][k], sum(counts[k])
        union = true + sum(row[k] for row in counts) - hits
        ious.append(hits / union if union else float("nan"))
    present = [iou for iou in ious if iou == iou]
    total = sum(map(sum, counts))
    correct = sum(counts[k][k] for k in range(classes))
    return counts, ious, sum(present) / len(present), correct / total


@pytest.mark.parametrize("seed", range(5))
def test_random_cases(seed):
    rng, classes = np.random.default_rng(seed), 6
    mask = rng.integers(-1, classes - 1, (3, 8, 9))  # the last class is absent from the truth
    predicted = np.where(
        rng.random(mask.shape) < 0.5, np.maximum(mask, 0), rng.integers(0, 4 + seed % 3, mask.shape)
    )
    counts = np.asarray(confusion(predicted, mask, classes))
    expected, ious, miou, accuracy = reference(predicted, mask, classes)
    np.testing.assert_array_equal(counts, expected)
    found = scores(counts)
    np.testing.assert_allclose(found.iou, ious)
    assert found.miou == pytest.approx(miou) and found.pixel_accuracy == pytest.approx(accuracy)
    labelled = mask >= 0
    true, guess = mask[labelled], predicted[labelled]
    np.testing.assert_array_equal(counts, confusion_matrix(true, guess, labels=range(classes)))
    present = [k for k in range(classes) if not np.isnan(ious[k])]
    jaccard = jaccard_score(true, guess, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(found.iou[present], jaccard)
    np.testing.assert_allclose(found.frequencies, np.bincount(true, minlength=classes) / len(true))
    assert np.isnan(found.class_accuracy[-1])
    recall = [(guess[true == k] == k).mean() for k in range(classes - 1)]
    np.testing.assert_allclose(found.class_accuracy[:-1], recall)
    assert found.mean_class_accuracy == pytest.approx(np.mean(recall))


def test_counts_beyond_32_bits():
    counts = np.array([[3 * 10**9, 10**9], [0, 10**9]], np.int64)
    found = scores(counts)
    np.testing.assert_allclose(found.iou, [3 / 4, 1 / 2])
    assert found.pixel_accuracy == 0.8


def test_classes_outside_count_nowhere():
    np.testing.assert_array_equal(
        confusion(np.array([0, 1, 0]), np.array([0, 255, -1]), 2), [[1, 0], [0, 0]]
    )
    empty = scores(np.zeros((2, 2)))
    assert np.isnan(empty.miou) and np.isnan(empty.pixel_accuracy) and np.isnan(empty.mean_class_accuracy)
