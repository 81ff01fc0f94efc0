"""Neighbours against scikit-learn, prediction for prediction."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes import knn
from fastmim_jax.evaluate.probes.knn import predict, probe


def problem(images=400, width=12, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    x = 0.7 * rng.normal(size=(classes, width))[labels] + rng.normal(size=(images, width))
    return (x + 0.3).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 2, 4, 20, 300])
@pytest.mark.parametrize("pairs", [2**27, 300 * 7])
def test_equals_scikit_learn(k, pairs, monkeypatch):
    """In one batch, and in many with a rest; even k have ties of votes. No similarity is a tie."""
    monkeypatch.setattr(knn, "PAIRS", pairs)
    x, labels = problem()
    train, test = (x[:300], labels[:300]), (x[300:], labels[300:])
    theirs = KNeighborsClassifier(k, metric="cosine", weights="uniform").fit(*train)
    assert (predict(*train, test[0], 5, k) == theirs.predict(test[0])).all()
    result = probe(train, test, 5, k)
    assert result.accuracy == pytest.approx(theirs.score(*test)) and result.chosen == k
    assert result.told == f"{k} neighbours"


def test_ties_of_votes_go_to_the_first_class():
    x = np.array([[1, 0], [0.99, 0.1], [0.9, 0.2], [0.8, 0.4]], np.float32)
    labels = np.array([3, 1, 1, 3])
    assert (
        predict(x, labels, x[:1], 4, 4)
        == [1]
        == KNeighborsClassifier(4, metric="cosine").fit(x, labels).predict(x[:1])
    )
    assert predict(x, labels, x[:1], 4, 1) == [3]


def test_length_does_not_matter_but_the_centre_does():
    x, labels = problem()
    train, queries = (x[:300], labels[:300]), x[300:]
    found = predict(*train, queries, 5, 9)
    sizes = 2.0 ** np.random.default_rng(0).integers(-9, 9, (400, 1))
    assert (found == predict(x[:300] * sizes[:300], labels[:300], queries * sizes[300:], 5, 9)).all()
    assert (found != predict(train[0] + 1, labels[:300], queries + 1, 5, 9)).any()


def test_an_image_of_zeros_is_similar_to_none():
    x = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    found = predict(x, np.array([0, 1, 2]), np.array([[2, 0], [-3, 0]], np.float32), 3, 1)
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize("k", [0, 301])
def test_as_many_neighbours_as_there_are(k):
    x, labels = problem()
    with pytest.raises(UserError, match=f"^{k} neighbours were asked for among 300 training images"):
        probe((x[:300], labels[:300]), (x[300:], labels[300:]), 5, k)
