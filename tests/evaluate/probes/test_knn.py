"""The nearest-neighbor probe: cosine similarity, and a majority vote."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.knn import probe


def problem(images=400, width=12, classes=5, seed=0):
    """Return float32 features (N, D) around a centre for each class, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    x = 0.7 * rng.normal(size=(classes, width))[labels] + rng.normal(size=(images, width))
    return (x + 0.3).astype(np.float32), labels


def halves(x, labels, middle=300):
    return (x[:middle], labels[:middle]), (x[middle:], labels[middle:])


@pytest.mark.parametrize("k", [1, 4, 20, 300])
def test_counts_the_majority_of_the_most_similar_images(k):
    (x, labels), (queries, expected) = halves(*problem())
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, queries)]
    nearest = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :k]
    votes = np.eye(5)[labels[nearest]].sum(1)
    result = probe((x, labels), (queries, expected), 5, k)
    assert result.accuracy == pytest.approx((votes.argmax(1) == expected).mean())
    assert (result.best, result.setting, result.held_out) == (k, f"{k} neighbors", {})


def test_ties_of_votes_go_to_the_first_class():
    x = np.array([[1, 0], [0.99, 0.1], [0.9, 0.2], [0.8, 0.4]], np.float32)
    labels = np.array([3, 1, 1, 3])
    assert probe((x, labels), (x[:1], np.array([1])), 4, 4).accuracy == 1
    assert probe((x, labels), (x[:1], np.array([3])), 4, 1).accuracy == 1


def test_length_does_not_matter_but_the_centre_does():
    x, labels = problem()
    sizes = 2.0 ** np.random.default_rng(0).integers(-9, 9, (400, 1))
    plain, scaled, moved = (probe(*halves(y, labels), 5, 9).accuracy for y in (x, x * sizes, x + 10))
    assert plain == scaled != moved


def test_an_image_of_zeros_is_similar_to_none():
    train = np.array([[0, 0], [1, 0], [-1, 0]], np.float32), np.array([0, 1, 2])
    assert probe(train, (np.array([[2, 0], [-3, 0]]), np.array([1, 2])), 3, 1).accuracy == 1


@pytest.mark.parametrize("k", [0, 301])
def test_as_many_neighbors_as_there_are(k):
    with pytest.raises(UserError, match=f"^{k} neighbors were asked for among 300 training images"):
        probe(*halves(*problem()), 5, k)
