"""Windows put together by matrices equal a loop that resizes, adds and divides, and cover every pixel."""

import numpy as np
import pytest

from fastmim_jax.evaluate.segmentation.windows import axis_matrices, cut_windows, plan_windows
from fastmim_jax.models.resample import bilinear

RNG = np.random.default_rng(0)


def resize(x, size):
    """Resize (h, w, K) bilinearly."""
    rows, columns = (bilinear(*sides) for sides in zip(x.shape[:2], size, strict=True))
    return np.einsum("Hh,hwk,Ww->HWk", rows, x, columns)


def loop(plan, logits):
    """Slide as mmsegmentation does: add the logits of windows, divide by their number, resize."""
    total, count = np.zeros((*plan.scaled, logits.shape[-1])), np.zeros((*plan.scaled, 1))
    for (row, column), window in zip(plan.starts, logits, strict=True):
        height, width = (
            min(*sides)
            for sides in ((plan.crop[0], plan.scaled[0] - row), (plan.crop[1], plan.scaled[1] - column))
        )
        large = resize(window, plan.crop)[:height, :width]
        total[row : row + height, column : column + width] += large
        count[row : row + height, column : column + width] += 1
    assert count.min() >= 1
    return resize(total / count, plan.image)


def by_matrices(plan, logits):
    cells = logits.shape[1:3]
    axes = (
        axis_matrices(*sides)
        for sides in zip(plan.image, plan.scaled, plan.crop, (plan.rows, plan.columns), cells, strict=True)
    )
    rows, columns = axes
    grid = logits.reshape(len(rows), len(columns), *logits.shape[1:])
    return np.einsum("rHh,rchwk,cWw->HWk", rows, grid, columns)


@pytest.mark.parametrize("image", [(40, 64), (64, 40), (33, 33), (20, 90), (7, 5)])
@pytest.mark.parametrize("mode, stride", [("slide", None), ("slide", (5, 32)), ("whole", None)])
def test_matrices_equal_the_loop(image, mode, stride):
    plan = plan_windows(image, (32, 32), mode=mode, stride=stride)
    logits = RNG.normal(size=(len(plan.starts), 8, 8, 3))
    np.testing.assert_allclose(by_matrices(plan, logits), loop(plan, logits), atol=1e-9)


def test_sliding_equals_the_whole_image_where_one_window_covers_it():
    slide = plan_windows((48, 48), (32, 32))
    assert slide == plan_windows((48, 48), (32, 32), mode="whole") and slide.starts == [(0, 0)]


@pytest.mark.parametrize("stride", [(21, 9), pytest.param((1, 16), marks=pytest.mark.slow)])
def test_windows_of_a_pointwise_model_give_the_whole_image(stride):
    """A model whose logits at a pixel depend on that pixel alone says the same in every window."""
    image = RNG.normal(size=(50, 75, 2))
    plan = plan_windows((50, 75), (32, 32), short_side=50, stride=stride)
    assert plan.scaled == (50, 75)
    found = by_matrices(plan, cut_windows(image, plan))
    np.testing.assert_allclose(found, image, atol=1e-9)


def test_the_last_window_ends_with_the_image_as_published():
    plan = plan_windows((512, 683), (512, 512), stride=(341, 341))
    assert plan.rows == (0,) and plan.columns == (0, 171)
    plan = plan_windows((1024, 512), (512, 512), short_side=512, stride=(341, 341))
    assert plan.rows == (0, 341, 512)


def test_what_an_image_lacks_is_padded():
    plan = plan_windows((10, 40), (32, 32), mode="whole")
    assert plan.scaled == (8, 32)
    (window,) = cut_windows(np.ones((8, 32, 3), np.uint8), plan)
    assert window.shape == (32, 32, 3) and window[:8].all() and not window[8:].any()
