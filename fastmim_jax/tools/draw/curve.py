"""Loss curves, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastmim_jax.errors import UserError
from fastmim_jax.tools.draw.glyphs import FILLED_INK, PREDICTED_INK
from fastmim_jax.tools.draw.pages import LINE, NOTE, PAGE, TITLE, save_png

Numbers = Sequence[float] | np.ndarray

TRAINED, HELD_OUT = PREDICTED_INK, FILLED_INK


class Points(NamedTuple):
    """The finite points of a log, sorted by step; dropped: number of points that are not finite."""

    steps: np.ndarray
    losses: np.ndarray
    dropped: int


def draw_curve(
    path: str | Path,
    steps: Numbers,
    losses: Numbers,
    *,
    baselines: Mapping[str, float] | None = None,
    evals: tuple[Numbers, Numbers] | None = None,
    stages: Mapping[str, int] | None = None,
    title: str = "",
) -> Path:
    """Write a PNG of a loss curve: raw values thin, their running mean bold, held-out losses as dots.

    Args:
      path: PNG file.
      steps, losses: (n,) of the training log, in any order; non-finite losses are left out and counted
        in the legend.
      baselines: name -> loss of a trivial predictor, a labelled dashed line.
      evals: (steps, losses) on held-out images, or None.
      stages: name -> its first step, for runs of several stages.
      title: text above the curve.

    Returns:
      The path.

    Raises:
      UserError: no finite loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained, held_out = finite_points(steps, losses), finite_points(*(evals or ((), ())))
    if not len(trained.steps):
        raise UserError("no finite loss to draw: the log holds none yet")
    baselines = {name: loss for name, loss in (baselines or {}).items() if np.isfinite(loss)}
    figure = Figure(figsize=(9.6, 4.8), dpi=120, facecolor=_css(PAGE), layout="constrained")
    axes = figure.add_subplot()
    _style_axes(axes)
    smooth = _draw_training(axes, trained)
    if len(held_out.steps):
        points = dict(color=_css(HELD_OUT), markersize=5, label="held out")
        axes.plot(held_out.steps, held_out.losses, "o", **points)
    # Spikes of single steps may leave the frame; the mean, dots and baselines may not.
    quantiles = np.quantile(trained.losses, [0.01, 0.99])
    shown = np.concatenate([smooth, quantiles, held_out.losses, list(baselines.values())])
    pad = 0.06 * (np.ptp(shown) or abs(shown[0]) or 1.0)
    axes.set_ylim(shown.min() - pad, shown.max() + pad)
    _draw_baselines(axes, baselines)
    _draw_stages(axes, stages or {})
    axes.set_title(title, color=_css(TITLE), loc="left", fontsize=12, pad=10)
    axes.legend(frameon=False, labelcolor=_css(TITLE), fontsize=9, loc="best")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return save_png(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()), path)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the centred mean over `window` (odd) entries, fewer at the ends: (n,) -> (n,)."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def spread_labels(heights: Numbers, distance: float) -> np.ndarray:
    """Return heights of labels, pushed up until neighbours differ by at least `distance`."""
    moved = np.array(heights, np.float64)
    ranks = np.argsort(moved, kind="stable")
    for low, high in zip(ranks[:-1], ranks[1:], strict=True):
        moved[high] = max(moved[high], moved[low] + distance)
    return moved


def finite_points(steps: Numbers, losses: Numbers) -> Points:
    """Return the finite points of a log."""
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    chosen = np.argsort(steps, kind="stable")
    chosen = chosen[np.isfinite(losses[chosen])]
    return Points(steps[chosen], losses[chosen], len(losses) - len(chosen))


def _draw_training(axes, points):
    """Draw the losses and their running mean -> the running mean, (n,)."""
    window = len(points.losses) // 100 * 2 + 1
    smooth = running_mean(points.losses, window)
    dropped = f", {points.dropped} non-finite left out" if points.dropped else ""
    ink, dot = _css(TRAINED), "." if len(points.losses) < 20 else None
    raw = dict(color=ink, alpha=0.35, linewidth=0.7, label="training" + dropped)
    axes.plot(points.steps, points.losses, **raw)
    mean = dict(color=ink, linewidth=2.2, marker=dot, label=f"running mean of {window}")
    axes.plot(points.steps, smooth, **mean)
    return smooth


def _draw_baselines(axes, baselines):
    """Draw dashed lines, labelled to the right of the axes, where no curve runs."""
    low, high = axes.get_ylim()
    heights = spread_labels(list(baselines.values()), 0.1 * (high - low))
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for (name, value), height in zip(baselines.items(), heights, strict=True):
        axes.axhline(value, color=_css(NOTE), linewidth=1, dashes=(5, 4))
        axes.text(1.01, height, f"{name}\n{value:.4g}", color=_css(NOTE), **beside)


def _draw_stages(axes, stages):
    """Draw a thin vertical line where each stage begins, labelled at its bottom."""
    bottom = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": 9}
    for name, step in stages.items():
        axes.axvline(step, color=_css(LINE), linewidth=1)
        axes.text(step, 0.01, f" {name}", color=_css(NOTE), **bottom)


def _style_axes(axes):
    axes.set_facecolor(_css(PAGE))
    axes.grid(axis="y", color=_css(LINE), linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_css(LINE))
    axes.tick_params(colors=_css(NOTE), length=0, labelsize=9)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("step", color=_css(NOTE))
    axes.set_ylabel("loss", color=_css(NOTE))


def _css(colour):
    """Convert RGB 0..255 to "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
