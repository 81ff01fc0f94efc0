"""The style of all pictures: colours, font and sizes, for Pillow and for matplotlib."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# RGB, 0..255.
PAGE, TITLE, NOTE, LINE = (24, 26, 31), (236, 238, 242), (158, 164, 175), (62, 66, 75)
GROUND, INK = (17, 19, 24), (246, 240, 228)  # behind panels; of what is true
AMBER, BLUE = (255, 198, 92), (111, 190, 255)  # predicted or trained; filled in or held out
SERIES = (AMBER, BLUE, (126, 211, 146), (238, 130, 150), (186, 154, 255), (200, 204, 212))  # of runs
DIM_GROUND, DIM_INK = (31, 34, 41), (98, 107, 122)  # of what is not predicted
FLAT = LINE  # of what is missing
RAMP = ((0.0, GROUND), (0.15, (86, 66, 38)), (1.0, AMBER))  # (share, colour): small shares are seen too

# Pixels.
PANEL, WIDEST, NARROWEST, GAP, MARGIN = 256, 448, 200, 14, 24
TITLE_FONT, CAPTION_FONT, NOTE_FONT = 17, 14, 13
LEADING = 1.3  # line height / font size
DPI = 120  # of figures; matplotlib measures in inches and points


def css(colour: tuple[int, ...]) -> str:
    """Return a colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def points(pixels: float) -> float:
    """Return pixels of a figure in points."""
    return pixels * 72 / DPI


@cache
def font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, matplotlib's DejaVu Sans, in a size in pixels."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def make_figure(width: int, height: int) -> "tuple[Figure, Axes]":
    """Return an empty matplotlib figure of a size in pixels and its axes, in this style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=css(PAGE), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor(css(PAGE))
    axes.grid(axis="y", color=css(LINE), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(css(LINE))
    axes.tick_params(which="both", colors=css(NOTE), length=0, labelsize=points(NOTE_FONT))
    return figure, axes


def write_titles(axes: "Axes", title: str = "", x: str = "", y: str = "") -> None:
    """Write the title of axes and the names of their quantities."""
    axes.set_title(
        title, color=css(TITLE), loc="left", fontsize=points(TITLE_FONT), pad=10, parse_math=False
    )
    axes.set_xlabel(x, color=css(NOTE), fontsize=points(CAPTION_FONT))
    axes.set_ylabel(y, color=css(NOTE), fontsize=points(CAPTION_FONT))


def write_legend(axes: "Axes", **place: Any) -> None:
    """Write the legend of axes; place: keyword arguments of `Axes.legend`."""
    axes.legend(frameon=False, labelcolor=css(TITLE), fontsize=points(CAPTION_FONT), **place)
