"""Loss curves."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.errors import UserError
from fastmim_jax.tools.draw.curve import draw_curve, running_mean, spread_labels


def test_curve_is_a_png_without_non_finite_points(tmp_path):
    steps = np.arange(0, 500, 5)
    losses = 0.1 * np.exp(-steps / 200) + 0.04
    losses[3] = np.nan
    path = draw_curve(
        tmp_path / "curve.png",
        steps,
        losses,
        baselines={"predicting zero": 1 / 9, "mean": 1 / 9, "unknown": np.nan},
        evals=([100, 400], [0.1, 0.05]),
        title="a run",
    )
    image = Image.open(path)
    assert image.format == "PNG" and image.size[0] > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_curve_of_one_point_and_of_none(tmp_path):
    draw_curve(tmp_path / "one.png", [10], [0.5], evals=([], []))
    with pytest.raises(UserError, match="no finite loss"):
        draw_curve(tmp_path / "none.png", [1, 2], [np.nan, np.inf])


def test_running_mean_of_a_line_is_the_line():
    line = np.arange(20.0)
    np.testing.assert_allclose(running_mean(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(running_mean(np.ones(3), 9), 1)


def test_baseline_labels_never_overlap():
    moved = spread_labels([0.5, 0.1, 0.5, 0.52], 0.1)
    assert np.diff(np.sort(moved)).min() > 0.0999
    assert moved[1] == 0.1
