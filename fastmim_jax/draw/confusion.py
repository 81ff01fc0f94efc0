"""Confusion matrices, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastmim_jax.draw.pages import save_figure
from fastmim_jax.draw.style import (
    FLAT,
    GROUND,
    INK,
    NOTE,
    NOTE_FONT,
    PAGE,
    RAMP,
    css,
    make_figure,
    points,
    write_titles,
)
from fastmim_jax.paths import to_text

NAMED = 40  # classes up to which a picture names them
NUMBERED = 20  # classes up to which it has numbers
BRIGHT = 0.5  # share from which its number is dark


def draw_confusion(
    path: str | Path, confusion: np.ndarray, classes: Sequence[str], title: str = "", noun: str = "images"
) -> Path:
    """Draw the share of each true class, with numbers and names where there is room; return the path.

    The row of a class without images is gray.

    Args:
      path: PNG file.
      confusion: (K, K) counts; rows are true classes.
      classes: their names.
      title: text above the matrix.
      noun: of what is counted.
    """
    from matplotlib.colors import LinearSegmentedColormap

    count = confusion.sum(1, keepdims=True)
    shares = np.where(count, confusion / np.maximum(count, 1), np.nan)
    named = len(classes) <= NAMED
    side = min(480 + 42 * len(classes), 1440) if named else 1080
    figure, axes = make_figure(side, round(0.9 * side))
    axes.grid(False)
    axes.set_facecolor(css(FLAT))
    axes.spines["bottom"].set_visible(False)
    ramp = LinearSegmentedColormap.from_list("ramp", [(share, css(colour)) for share, colour in RAMP])
    image = axes.imshow(shares, cmap=ramp, vmin=0, vmax=1, interpolation="nearest")
    if named:
        names = [to_text(name).replace("$", r"\$") for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= NUMBERED:
        for row, column in np.argwhere(confusion):
            colour = css(GROUND if shares[row, column] > BRIGHT else INK)
            text = f"{shares[row, column]:.0%}"
            place: dict[str, Any] = dict(ha="center", va="center", fontsize=points(NOTE_FONT))
            axes.text(column, row, text, color=colour, **place)
    write_titles(axes, title, "likeliest class", "true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, format=lambda share, _: f"{share:.0%}")
    bar.outline.set_edgecolor(css(PAGE))
    bar.ax.tick_params(colors=css(NOTE), length=0, labelsize=points(NOTE_FONT))
    bar.set_label(f"share of the {noun} of the true class", color=css(NOTE), fontsize=points(NOTE_FONT))
    return save_figure(figure, path)
