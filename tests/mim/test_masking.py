"""Masks: how many cells, which, and how often."""

import jax
import numpy as np
import pytest

from fastmim_jax.mim.masking import disjoint_noise, mixing_mask, num_visible, random_mask
from fastmim_jax.models.layers import upsample_nearest
from helpers.sweeps import sweep


@pytest.mark.parametrize(
    ("cells", "ratio", "visible"), [(64, 0.75, 16), (16, 0.6, 6), (10, 0.9, 0), (49, 0.5, 24)]
)
def test_counts_are_rounded_as_published(cells, ratio, visible):
    assert num_visible(cells, ratio) == visible


@pytest.mark.parametrize("grid", [(8, 8), (3, 5)])
def test_every_sample_masks_the_same_number_with_the_largest_noise(grid):
    cells = grid[0] * grid[1]
    noise = jax.random.uniform(jax.random.key(0), (50, cells))
    mask = np.asarray(random_mask(noise, grid, num_visible(cells, 0.75))).reshape(50, cells)
    assert (mask.sum(1) == cells - num_visible(cells, 0.75)).all()
    for sample, row in zip(mask, np.asarray(noise), strict=True):
        assert row[sample].min() > row[~sample].max()


def test_every_cell_is_masked_equally_often():
    noise = jax.random.uniform(jax.random.key(1), (4000, 16))
    share = np.asarray(random_mask(noise, (4, 4), 4)).mean(0)
    assert np.abs(share - 0.75).max() < 0.03  # 4 standard deviations of 4,000 draws


def test_upsampling_repeats_each_cell():
    mask = np.array([[[True, False], [False, True]]])
    assert (np.asarray(upsample_nearest(mask, 3)) == np.kron(mask[0], np.ones((3, 3), bool))).all()


def test_mixing_masks_the_least_noise_and_returns_its_indices():
    noise = jax.random.uniform(jax.random.key(2), (5, 12))
    mask, (ids_keep, ids_mask) = mixing_mask(noise, (3, 4), 5)
    mask = np.asarray(mask).reshape(5, 12)
    assert mask.sum(1).tolist() == [5] * 5
    for row, masked, keep, swap in zip(np.asarray(noise), mask, ids_keep, ids_mask, strict=True):
        assert row[masked].max() < row[~masked].min()
        assert sorted(swap.tolist()) == np.flatnonzero(masked).tolist()
        assert sorted(keep.tolist()) == np.flatnonzero(~masked).tolist()


@pytest.mark.parametrize(
    ("views", "cells", "visible"),
    sweep([(2, 16, 6), (4, 64, 16), (3, 10, 1)], [(4, 64, 16)], pytest.mark.slow),
)
def test_views_of_an_image_have_disjoint_visible_cells(views, cells, visible):
    noise = jax.random.uniform(jax.random.key(2), (5, cells))
    of_views = np.asarray(disjoint_noise(noise, views, visible))
    mask = np.asarray(random_mask(of_views, (1, cells), visible)).reshape(5, views, cells)
    assert ((~mask).sum(2) == visible).all() and ((~mask).sum(1) <= 1).all()
    of_views = of_views.reshape(5, views, cells)
    np.testing.assert_array_equal(of_views[:, 0], noise)  # and all views hold the same numbers
    assert (np.sort(of_views, axis=2) == np.sort(noise, axis=1)[:, None]).all()
    assert disjoint_noise(noise, 1, visible) is noise
