"""Curves of several runs in one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmim_jax.draw.curve import (
    HEIGHT,
    WIDTH,
    Numbers,
    choose_frame,
    finite_points,
    running_mean,
    set_axes,
    settled_points,
)
from fastmim_jax.draw.pages import save_figure
from fastmim_jax.draw.style import SERIES, css, make_figure, write_legend
from fastmim_jax.errors import UserError


class Curve(NamedTuple):
    """The curve of a run.

    Attributes:
      steps, values: (n,) of the training log, or of evaluations.
      held_out: (steps, losses) on held-out images, drawn as dots.
    """

    steps: Numbers
    values: Numbers
    held_out: tuple[Numbers, Numbers] = ((), ())


def draw_compared(path: str | Path, curves: Mapping[str, Curve], *, title: str, y: str) -> Path:
    """Write a PNG of the curves of several runs: running means as lines, held-out losses as dots.

    Args:
      path: PNG file.
      curves: name of a run -> its curve, at most as many as there are colours in `style.SERIES`.
      title: text above the picture.
      y: name of the axis of values.

    Returns:
      The path.

    Raises:
      UserError: a run without a finite value, or more runs than colours.
    """
    if len(curves) > len(SERIES):
        raise UserError(f"{len(curves)} runs, at most {len(SERIES)} are drawn in one picture: name fewer")
    figure, axes = make_figure(WIDTH, HEIGHT)
    shown = []
    for colour, (name, curve) in zip(SERIES, curves.items(), strict=False):
        trained, held_out = finite_points(curve.steps, curve.values), finite_points(*curve.held_out)
        if not len(trained.steps):
            raise UserError(f"nothing to draw of {name}: its log holds no finite value yet")
        smooth = running_mean(trained.losses, len(trained.losses) // 50 * 2 + 1)
        axes.plot(trained.steps, smooth, color=css(colour), linewidth=2.2, label=name)
        axes.plot(held_out.steps, held_out.losses, "o", color=css(colour), markersize=5)
        settled = settled_points(trained.steps)
        shown += [smooth[settled], held_out.losses]
    set_axes(axes, choose_frame(np.concatenate(shown), {}), title, "step", y)
    write_legend(axes, loc="best")
    return save_figure(figure, path)
