"""Folds and held-out images: stratified, and decided by the seed alone."""

import warnings

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.folds import held_out, split_folds

LABELS = np.random.default_rng(0).choice(7, 503, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.005])


@pytest.mark.parametrize("count", [2, 5, 10])
def test_folds_are_stratified(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a class with fewer images than folds is no reason to warn
        found = split_folds(LABELS, count)
    assert found.shape == LABELS.shape
    assert np.ptp(np.bincount(found, minlength=count)) <= 1
    for label in set(LABELS):
        assert np.ptp(np.bincount(found[LABELS == label], minlength=count)) <= 1


@pytest.mark.parametrize("labels, count", [(np.arange(20), 4), (np.arange(12) % 6, 3), (LABELS, 503)])
def test_classes_with_fewer_images_than_folds_give_folds_of_one_size(labels, count):
    assert np.bincount(split_folds(labels, count)).tolist() == [len(labels) // count] * count


@pytest.mark.parametrize(
    "draw", [lambda seed: split_folds(LABELS, 5, seed), lambda seed: held_out(LABELS, seed)]
)
def test_the_seed_decides(draw):
    assert (draw(3) == draw(3)).all() and (draw(3) != draw(4)).mean() > 0.2


@pytest.mark.parametrize("count", [-1, 0, 1, 11])
def test_impossible_folds(count):
    with pytest.raises(UserError, match=f"10 images cannot be split into {count} folds"):
        split_folds(np.zeros(10, int), count)


def test_a_fifth_of_every_class_is_held_out():
    mask = held_out(LABELS)
    assert mask.dtype == bool and abs(mask.sum() - len(LABELS) / 5) < 1
    for label in set(LABELS):
        assert abs(mask[LABELS == label].sum() - (LABELS == label).sum() / 5) < 1


def test_too_few_images_to_hold_out_a_fifth():
    assert held_out([0, 1, 0, 1, 2]).sum() == 1
    with pytest.raises(UserError, match="4 training images are too few .* at least 5"):
        held_out([0, 1, 0, 1])
