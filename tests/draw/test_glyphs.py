"""Glyphs of HOG cells, and marks of patches."""

import numpy as np
import pytest

from fastmim_jax.draw import glyphs
from helpers.reconstructions import BINS, ROLES, plain_hog, random_reconstruction


def drawn_angle(picture):
    """Return the angle of strokes, degrees in [0, 180), counter-clockwise from the x axis of the image."""
    weight = picture.astype(float).sum(-1) - float(sum(glyphs.GROUND))
    rows, columns = np.indices(weight.shape)
    x = columns - np.average(columns, weights=weight)
    y = np.average(rows, weights=weight) - rows  # rows count downwards
    twice = np.arctan2((2 * x * y * weight).sum(), ((x * x - y * y) * weight).sum())
    return np.degrees(twice / 2) % 180


def between(a, b):
    """Return the degrees between two undirected lines."""
    return abs((a - b + 90) % 180 - 90)


COLUMN, ROW = np.meshgrid(np.arange(24.0), np.arange(24.0))
# name -> image whose level lines run in this direction, and their angle on the picture
EDGES = {
    "vertical": (COLUMN, 90),
    "horizontal": (ROW, 0),
    "rising": (ROW + COLUMN, 45),
    "falling": (COLUMN - ROW, 135),
}


@pytest.mark.parametrize("name", EDGES)
def test_strokes_lie_along_the_edges_of_an_image(name):
    image, angle = EDGES[name]
    middle = plain_hog(image[None, :, :, None])[0, 1:2, 1:2]
    assert between(drawn_angle(glyphs.hog_glyphs(middle, 32)), angle) <= 10.5  # half a bin


@pytest.mark.parametrize("scale", [8, 15, 16, 32])
@pytest.mark.parametrize("bin_index", range(BINS))
def test_each_bin_is_drawn_at_its_middle(bin_index, scale):
    cell = np.zeros((1, 1, 1, BINS))
    cell[..., bin_index] = 1
    assert between(drawn_angle(glyphs.hog_glyphs(cell, scale)), 20 * bin_index + 10) < 4


def test_glyphs_stay_in_their_cell_and_on_the_canvas():
    cells = np.zeros((2, 3, 1, BINS))
    cells[1, 2] = 1
    picture = glyphs.hog_glyphs(cells, 16)
    assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    inside = np.zeros((32, 48), bool)
    inside[16:, 32:] = True
    assert (picture[~inside] == glyphs.GROUND).all()
    assert (picture[inside] != glyphs.GROUND).any()


def test_a_dominant_orientation_is_brighter_than_a_flat_histogram():
    cells = np.zeros((1, 2, 3, BINS))
    cells[0, 0] = 1 / 3  # flat, unit norm
    cells[0, 1, :, 4] = 1
    picture = glyphs.hog_glyphs(cells, 16)
    assert picture[:, 16:].max() > 1.8 * picture[:, :16].max()


def test_strength_of_a_cell_ignores_its_neighbours():
    cells = np.random.default_rng(1).random((4, 5, 3, BINS))
    alone = glyphs.stroke_strength(cells[1:2, 2:3])
    np.testing.assert_array_equal(glyphs.stroke_strength(cells)[1:2, 2:3], alone)


def test_shared_maximum_scales_raw_sums_and_survives_zeros():
    raw = 50 * np.random.default_rng(2).random((6, 6, 3, BINS))
    full = glyphs.shared_maximum(raw, 0.5 * raw)
    assert 20 < full < 50
    bright = glyphs.hog_glyphs(raw, 8, full=full)
    np.testing.assert_array_equal(bright, glyphs.hog_glyphs(raw * 3, 8, full=full * 3))
    assert glyphs.shared_maximum(np.zeros_like(raw)) == 1


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_empty_or_non_finite_cells_are_drawn_as_ground(value):
    picture = glyphs.hog_glyphs(np.full((2, 2, 3, BINS), value), 8)
    assert (picture == glyphs.GROUND).all()


def test_masked_cells_show_the_prediction_and_visible_ones_the_truth():
    *_, prediction, target, mask = random_reconstruction()
    mask = mask[0]
    roles = mask.astype(int)
    first = glyphs.prediction_glyphs(prediction[0], target[0], roles, 8)
    where = mask.repeat(8, 0).repeat(8, 1)
    # Masked cells must not depend on the truth, nor visible ones on the prediction.
    other_truth = glyphs.prediction_glyphs(prediction[0], 0 * target[0], roles, 8)
    other_prediction = glyphs.prediction_glyphs(0 * prediction[0], target[0], roles, 8)
    np.testing.assert_array_equal(first[where], other_truth[where])
    np.testing.assert_array_equal(first[~where], other_prediction[~where])
    assert first[where].max() > first[~where].max()


def test_all_patches_but_visible_ones_are_marked():
    picture = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    marked = glyphs.mark_patches(picture, ROLES)
    np.testing.assert_array_equal(marked[:8, :8], picture[:8, :8])
    assert (marked[8:, 8:] == glyphs.FLAT).all()
    red, blue = marked[..., 0].astype(int), marked[..., 2].astype(int)
    assert (red > blue)[:8, 8:].all() and (blue > red)[8:, :8].all()  # amber, blue


def test_absent_predictions_are_drawn_flat():
    cells = np.full((2, 2, 3, BINS), 0.5)
    picture = glyphs.prediction_glyphs(cells, cells, ROLES, 16)
    assert (picture[16:, 16:] == glyphs.FLAT).all()
    for quarter in (picture[:16, :16], picture[:16, 16:], picture[16:, :16]):
        assert len(np.unique(quarter.reshape(-1, 3), axis=0)) > 3
