"""Confusion matrices."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.draw import style
from fastmim_jax.draw.confusion import draw_confusion

CLASSES = ("ant", "bee", "cat, the tame one")


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 30, 100])
def test_the_picture_has_a_bright_diagonal_where_all_is_right(tmp_path, count):
    names = [f"class {k}" for k in range(count)]
    paths = [
        draw_confusion(tmp_path / name / "confusion.png", confusion, names)
        for name, confusion in (
            ("right", 5 * np.eye(count, dtype=int)),
            ("none", np.zeros((count,) * 2, int)),
        )
    ]
    right, none = (np.asarray(Image.open(path).convert("L"), float) for path in paths)
    assert right.shape == none.shape and 400 <= max(right.shape) <= 1500
    # The same page with all gray rows: what is brighter is the diagonal, 1 / K of the square.
    brighter = (right - none) > 60
    row, column = np.nonzero(brighter)
    # Points of K squares in a row are correlated by 1 - 1 / K^2; letters in the squares cost a little.
    assert np.corrcoef(row, column)[0, 1] == pytest.approx(1 - count**-2, abs=0.01)
    square = np.ptp(row) * np.ptp(column)
    assert brighter.sum() / square == pytest.approx(1 / count, rel=0.25)


@pytest.mark.slow
def test_a_class_without_images_is_gray(tmp_path):
    """Not the colour of a share of nothing."""
    pages = [
        np.asarray(Image.open(draw_confusion(tmp_path / "x.png", counts, CLASSES)).convert("RGB"))
        for counts in (np.diag([4, 4, 4]), np.diag([4, 0, 4]))
    ]
    gray = [(page == style.FLAT).all(-1).sum() for page in pages]
    square = (pages[0] == style.AMBER).all(-1).sum() / 3
    assert gray[0] < 0.01 * square and gray[1] == pytest.approx(3 * square, rel=0.1)
