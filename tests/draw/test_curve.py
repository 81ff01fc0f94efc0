"""Loss curves."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.draw.curve import (
    choose_frame,
    draw_accuracy,
    draw_curve,
    running_mean,
    settled_points,
    spread_labels,
    step_axis,
)
from fastmim_jax.errors import UserError


@pytest.mark.slow
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


def test_the_first_losses_of_a_long_log_may_leave_the_frame():
    assert settled_points(np.arange(0.0, 100.0)).tolist() == [False] * 5 + [True] * 95
    assert settled_points(np.arange(8.0)).all() and settled_points(np.zeros(1)).all()


def test_the_frame_wastes_no_range():
    settled = np.array([0.035, 0.05])
    near = choose_frame(settled, {"mean target": 0.049, "zero": 0.11})
    assert not near.log and 0.03 < near.low < 0.035 and 0.05 < near.high < 0.055
    assert near.height(0.11) == 1 and near.height(near.low) == 0
    nearest = choose_frame(settled, {"zero": 0.09, "other": 0.11})
    assert 0.09 < nearest.high < 0.11


def test_values_that_span_decades_have_a_logarithmic_axis():
    frame = choose_frame(np.array([0.02, 8.0]), {"zero": 1.0})
    assert frame.log and frame.height(0.4) == pytest.approx(0.5)
    assert not choose_frame(np.array([0.0, 8.0]), {}).log
    assert choose_frame(np.array([0.5]), {}).low < 0.5  # a single value


@pytest.mark.slow
def test_accuracies_are_drawn(tmp_path):
    baselines = {"majority class": 0.1, "ridge probe": 0.6}
    path = draw_accuracy(tmp_path / "curve.png", [10, 20, 30], [0.3, 0.7, 0.6], baselines=baselines)
    assert Image.open(path).size == (1152, 576)
    with pytest.raises(UserError, match="nothing has been evaluated"):
        draw_accuracy(tmp_path / "none.png", [], [])


def test_the_axis_of_steps_names_the_steps_of_an_epoch():
    assert step_axis([{"step": 30, "epoch": 1.5}]) == "step (20 an epoch)"
    assert step_axis([]) == step_axis([{"step": 30}]) == "step"
