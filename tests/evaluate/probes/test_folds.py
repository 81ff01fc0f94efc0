"""Folds and held-out parts against their definitions."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.folds import folds, held_out

LABELS = np.random.default_rng(0).choice(7, 503, p=[0.4, 0.3, 0.15, 0.1, 0.03, 0.015, 0.005])


@pytest.mark.parametrize("count", [2, 5, 10, len(LABELS)])
def test_folds_are_even_in_every_class(count):
    found = folds(LABELS, count)
    assert found.shape == LABELS.shape
    assert np.ptp(np.bincount(found, minlength=count)) <= 1
    for label in set(LABELS):
        assert np.ptp(np.bincount(found[LABELS == label], minlength=count)) <= 1


def test_classes_of_one_image_do_not_all_go_to_one_fold():
    assert np.bincount(folds(np.arange(20), 4)).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(
    "draw", [lambda seed: folds(LABELS, 5, seed), lambda seed: held_out(LABELS, 0.2, seed)]
)
def test_the_seed_decides(draw):
    assert (draw(3) == draw(3)).all() and (draw(3) != draw(4)).mean() > 0.2


def test_folds_are_drawn_from_all_images_of_a_class():
    """Over many seeds an image is in every fold equally often: 2,000 draws, 5 standard deviations."""
    labels = np.repeat([0, 1], [12, 8])
    draws = np.stack([folds(labels, 4, seed) for seed in range(2000)])
    share = (draws[..., None] == np.arange(4)).mean(0)
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("count", [-1, 0, 1, 11])
def test_impossible_folds(count):
    with pytest.raises(UserError, match=f"10 images cannot be dealt out to {count} folds"):
        folds(np.zeros(10, int), count)


@pytest.mark.parametrize("share", [0.1, 0.2, 1 / 3, 0.75])
def test_held_out_takes_its_share_of_every_class(share):
    mask = held_out(LABELS, share)
    assert mask.dtype == bool and mask.sum() == round(share * len(LABELS))
    for label in set(LABELS):
        assert abs(mask[LABELS == label].sum() - mask.mean() * (LABELS == label).sum()) < 1


def test_few_images_a_class_are_held_out_from_some_classes():
    """A tenth of 4 each rounds to none; of all together it does not."""
    labels = np.arange(400) % 100
    mask = held_out(labels, 0.1)
    assert mask.sum() == 40 and np.bincount(labels[mask], minlength=100).max() == 1


@pytest.mark.parametrize("share", [0, 0.01, 0.99, 1, 1.5, -0.2])
def test_impossible_shares(share):
    with pytest.raises(UserError, match="of 10 images"):
        held_out(np.zeros(10, int), share)
