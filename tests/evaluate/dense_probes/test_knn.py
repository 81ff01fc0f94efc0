"""k-NN segmentation."""

import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.evaluate.dense_probes import knn
from fastmim_jax.evaluate.dense_probes.knn import NEIGHBORS, Patches, mode, segment


def test_mode():
    labels = jnp.asarray([[[3], [1], [1]], [[2], [1], [-1]], [[-1], [-1], [4]], [[-1], [-1], [-1]]])
    np.testing.assert_array_equal(mode(labels)[:, 0], [1, 1, 4, -1])


@pytest.fixture
def few_keys(monkeypatch):
    monkeypatch.setattr(knn, "_KEYS", 16)
    monkeypatch.setattr(knn, "_QUERIES", 8)


@pytest.mark.slow
def test_neighbours_vote_for_each_pixel(few_keys):
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(50, 6)).astype(np.float32)
    labels = rng.integers(0, 4, (50, 6)).astype(np.int16)
    mean, scale = keys.mean(0), keys.std(0)
    z = (keys - mean) / scale
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    queries = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    found = np.asarray(segment(jnp.asarray(queries), Patches(z, jnp.asarray(labels), mean, scale), (6, 15)))
    assert found.shape == (len(NEIGHBORS), 2, 6, 15)
    for index, patch in np.ndenumerate(np.empty(queries.shape[:3])):
        similarity = z @ ((queries[index] - mean) / scale)
        b, r, c = index
        for number, k in enumerate(NEIGHBORS):
            nearest = labels[np.argsort(-similarity)[:k]]
            expected = [np.bincount(column).argmax() for column in nearest.T]
            cell = found[number, b, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3]
            np.testing.assert_array_equal(cell.ravel(), expected)
        del patch


def test_patches_without_labels_are_left_out():
    x = np.arange(2 * 2 * 2 * 3, dtype=np.float32).reshape(2, 2, 2, 3)
    labels = np.ones((2, 4, 4), np.int32)
    labels[0, :2, :2] = -1
    labels[1, 0, 0] = -1
    features, cells = knn._usable(x, labels, images=2, most=100, seed=0)
    assert features.shape == (7, 3) and cells.shape == (7, 4)
    np.testing.assert_array_equal(features[0], x[0, 0, 1])
    assert len(knn._usable(x, labels, images=2, most=4, seed=0)[0]) <= 4
