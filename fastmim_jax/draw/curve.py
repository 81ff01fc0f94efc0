"""Curves of a run: its loss, or its accuracy, against steps; drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.draw.pages import save_figure
from fastmim_jax.draw.style import (
    AMBER,
    BLUE,
    CAPTION_FONT,
    LINE,
    NOTE,
    NOTE_FONT,
    TITLE,
    css,
    make_figure,
    points,
    write_legend,
    write_titles,
)
from fastmim_jax.errors import UserError

Numbers = Sequence[float] | np.ndarray

TRAINED, HELD_OUT = AMBER, BLUE
WIDTH, HEIGHT = 1152, 576  # pixels
SETTLING = 0.05  # share of the steps, the first ones, whose losses may leave the frame
FEW = 20  # points, of which all are shown, with dots
DECADE = 10.0  # largest / smallest value from which an axis is logarithmic
LABEL_DISTANCE = 0.1  # of labels, in heights of the frame


class Points(NamedTuple):
    """The finite points of a log, sorted by step; dropped: number of points that are not finite."""

    steps: np.ndarray
    losses: np.ndarray
    dropped: int


class Frame(NamedTuple):
    """The limits of the axis of values; log: whether it is logarithmic."""

    low: float
    high: float
    log: bool

    def height(self, value: float) -> float:
        """Return the height of a value as a share of the frame, 0 or 1 where it is outside of it."""
        low, high, value = (
            np.log((self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return float(np.clip((value - low) / (high - low), 0, 1))


def draw_curve(
    path: str | Path,
    steps: Numbers,
    losses: Numbers,
    *,
    baselines: Mapping[str, float] | None = None,
    evals: tuple[Numbers, Numbers] | None = None,
    stages: Mapping[str, int] | None = None,
    title: str = "",
    x: str = "step",
    y: str = "loss",
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
      x, y: names of the axes, with units.

    Returns:
      The path.

    Raises:
      UserError: no finite loss.
    """
    trained, held_out = finite_points(steps, losses), finite_points(*(evals or ((), ())))
    if not len(trained.steps):
        raise UserError("no finite loss to draw: the log holds none yet")
    baselines = {name: loss for name, loss in (baselines or {}).items() if np.isfinite(loss)}
    window = len(trained.losses) // 100 * 2 + 1
    smooth = running_mean(trained.losses, window)
    settled = settled_points(trained.steps)
    # Spikes of single steps may leave the frame too; the mean and the dots may not.
    quantiles = np.quantile(trained.losses[settled], [0.01, 0.99])
    frame = choose_frame(np.concatenate([smooth[settled], quantiles, held_out.losses]), baselines)
    figure, axes = make_figure(WIDTH, HEIGHT)
    set_axes(axes, frame, title, x, y)
    label = "training" + (f", {trained.dropped} non-finite left out" if trained.dropped else "")
    mean: dict[str, Any] = dict(
        color=css(TRAINED), linewidth=2.2, marker="." if len(smooth) < FEW else None
    )
    if window > 1:
        raw: dict[str, Any] = dict(color=css(TRAINED), alpha=0.35, linewidth=0.7, label=label)
        axes.plot(trained.steps, trained.losses, **raw)
        label = f"running mean of {window}"
    axes.plot(trained.steps, smooth, label=label, **mean)
    if len(held_out.steps):
        dots: dict[str, Any] = dict(color=css(HELD_OUT), markersize=5, label="held out")
        axes.plot(held_out.steps, held_out.losses, "o", **dots)
    if smooth.max() > frame.high:
        _note_what_is_above(axes, trained)
    _draw_levels(axes, frame, baselines, "{:.4g}")
    _draw_stages(axes, stages or {})
    return _save(figure, axes, path)


def draw_accuracy(
    path: str | Path,
    steps: Numbers,
    accuracies: Numbers,
    *,
    baselines: Mapping[str, float] | None = None,
    title: str = "",
    x: str = "step",
    y: str = "accuracy",
) -> Path:
    """Write a PNG of accuracies during a run; its best one is marked.

    Args:
      path: PNG file.
      steps, accuracies: (n,) of the evaluations, shares.
      baselines: name -> accuracy to beat, a labelled dashed line.
      title, x, y: see `draw_curve`.

    Returns:
      The path.

    Raises:
      UserError: no evaluation.
    """
    found = finite_points(steps, accuracies)
    if not len(found.steps):
        raise UserError("no accuracy to draw: nothing has been evaluated yet")
    baselines = dict(baselines or {})
    best = int(np.argmax(found.losses))
    figure, axes = make_figure(WIDTH, HEIGHT)
    frame = _linear_frame(np.array([*found.losses, *baselines.values()]))  # all that is to beat is seen
    set_axes(axes, frame, title, x, y)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.plot(found.steps, found.losses, "o-", color=css(HELD_OUT), markersize=4, linewidth=2.2)
    label = f"best: {found.losses[best]:.2%} at step {found.steps[best]:,.0f}"
    ring: dict[str, Any] = dict(markersize=10, markerfacecolor="none", color=css(TRAINED), label=label)
    axes.plot(found.steps[best], found.losses[best], "o", **ring)
    _draw_levels(axes, frame, baselines, "{:.2%}")
    return _save(figure, axes, path)


def choose_frame(values: np.ndarray, levels: Mapping[str, float]) -> Frame:
    """Return the limits that show all values, and levels that are near.

    Args:
      values: (n,), n > 0.
      levels: name -> value; the nearest is shown if it is at most 3 spans of the values away, others up to
        one span.
    """
    low, high = float(values.min()), float(values.max())
    span = (high - low) or abs(low) or 1.0

    def away(level: float) -> float:
        return max(low - level, level - high, 0.0) / span

    ranking = sorted(levels.values(), key=away)
    near = [level for rank, level in enumerate(ranking) if away(level) <= (1.0 if rank else 3.0)]
    low, high = min([low, *near]), max([high, *near])
    if low > 0 and high / low >= DECADE:
        pad = (high / low) ** 0.06
        return Frame(low / pad, high * pad, True)
    return _linear_frame(np.array([low, high]))


def _linear_frame(values: np.ndarray) -> Frame:
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * ((high - low) or abs(low) or 1.0)
    return Frame(low - pad, high + pad, False)


def step_axis(lines: Sequence[Mapping[str, float]]) -> str:
    """Return "step" with the steps of an epoch, from lines of metrics.jsonl; "step" without any."""
    last = lines[-1] if lines else {}
    if not last.get("epoch") or not last.get("step"):
        return "step"
    return f"step ({last['step'] / last['epoch']:,.4g} an epoch)"


def settled_points(steps: np.ndarray) -> np.ndarray:
    """Return which points of a curve its frame has to show, (n,) bool: all but the first, or all of few."""
    return steps >= steps[0] + SETTLING * np.ptp(steps) * (len(steps) >= FEW)


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


def set_axes(axes: Any, frame: Frame, title: str, x: str, y: str) -> None:
    """Give axes the limits and the scale of a frame, and their names."""
    from matplotlib.ticker import LogLocator, NullLocator

    write_titles(axes, title, x, y)
    if frame.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(frame.low, frame.high)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _note_what_is_above(axes, trained):
    """Write the largest loss, which is above the frame, beside the title."""
    highest = int(np.argmax(trained.losses))
    text = f"above the frame: {trained.losses[highest]:.4g} at step {trained.steps[highest]:,.0f}"
    axes.set_title(text, color=css(NOTE), loc="right", fontsize=points(NOTE_FONT), pad=10)


def _draw_levels(axes, frame, levels, form):
    """Draw dashed lines, labelled to the right of the axes, where no curve runs; arrows point outside."""
    heights = spread_labels([frame.height(value) for value in levels.values()], LABEL_DISTANCE)
    for (name, value), height in zip(levels.items(), heights, strict=True):
        arrow = ""
        if frame.low <= value <= frame.high:
            axes.axhline(value, color=css(NOTE), linewidth=1, dashes=(5, 4))
        else:
            arrow = " \N{UPWARDS ARROW}" if value > frame.high else " \N{DOWNWARDS ARROW}"
        beside = dict(transform=axes.transAxes, va="center", fontsize=points(CAPTION_FONT))
        axes.text(1.01, height, f"{name}\n{form.format(value)}{arrow}", color=css(NOTE), **beside)


def _draw_stages(axes, stages):
    """Draw a thin vertical line where each stage begins, labelled at its bottom."""
    bottom = dict(transform=axes.get_xaxis_transform(), va="bottom")
    for name, step in stages.items():
        axes.axvline(step, color=css(LINE), linewidth=1)
        axes.text(step, 0.01, f" {name}", color=css(TITLE), fontsize=points(NOTE_FONT), **bottom)


def _save(figure, axes, path):
    write_legend(axes, loc="best")
    return save_figure(figure, path)
