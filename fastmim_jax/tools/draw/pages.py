"""Pictures of what a model fills in, and of its loss: PNG files with honest labels.

Pure numpy and Pillow (matplotlib for the curve only), so that drawing never touches a device.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastmim_jax.errors import UserError
from fastmim_jax.io import atomic_write
from fastmim_jax.tools.draw import glyphs
from fastmim_jax.tools.draw.glyphs import ABSENT, VISIBLE, told

PAGE, TITLE, NOTE, LINE = (24, 26, 31), (236, 238, 242), (158, 164, 175), (62, 66, 75)
TRAINED, HELD_OUT = glyphs.PREDICTED_INK, glyphs.FILLED_INK
PANEL, WIDEST, NARROWEST, GAP, MARGIN = 256, 448, 200, 14, 24


class Column(NamedTuple):
    """Images of a page, (n, H, W, C) in [0, 1], and what is said over them.

    The note stands under the title in small; of predicted pixels it must say what is taken from the truth.
    Patches are marked by their roles, (n, h, w) as in `glyphs`, if there are any.
    """

    title: str
    note: str
    images: np.ndarray
    roles: np.ndarray | tuple = ()


def as_rgb(images):
    """(n, H, W, C) floats in [0, 1] -> (n, H, W, 3) uint8: gray for C < 3, else three channels."""
    images = np.nan_to_num(np.asarray(images, np.float64))
    shown = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, axis=-1)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def channels_shown(channels):
    """One sentence on which channels `as_rgb` shows, empty when it shows them all."""
    if channels in (1, 3):
        return ""
    return f"channel 1 of {channels} shown" if channels < 3 else f"channels 1-3 of {channels} shown"


def panel_scale(height, width):
    """Magnification that makes a panel `PANEL` high, or at most `WIDEST` wide."""
    return min(PANEL / height, WIDEST / width)


def enlarge(picture, height, width, hidden=None):
    """(H, W, 3) uint8 -> (height, width, 3); `hidden` (h, w) bool cells keep hard edges."""
    picture = Image.fromarray(picture)
    smooth = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    if hidden is None:
        return smooth
    # Bicubic would let visible pixels ring into the mask's flat colour.
    sharp = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
    cells = Image.fromarray(hidden.astype(np.uint8) * 255)
    inside = np.asarray(cells.resize((width, height), Image.Resampling.NEAREST)) > 0
    return np.where(inside[..., None], sharp, smooth)


def marked(images, roles):
    """[Column] that tells visible, decoded and thrown patches apart, beside one of the same images.

    Empty where nothing was thrown.
    """
    note = f"amber: decoded{told(roles)}; the rest: visible"
    return [Column("the same, marked", note, images, roles)] if told(roles) else []


def wrap(text, font, width):
    """Lines of `text`, each at most `width` pixels unless a single word is longer."""
    lines = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def write_lines(draw, lines, x, y, font, colour):
    """Draws `lines` downwards from (x, y) and returns the y below the last one."""
    step = round(font.size * 1.3)
    for i, line in enumerate(lines):
        draw.text((x, y + i * step), line, font=font, fill=colour)
    return y + len(lines) * step


def compose(rows, headers, footer):
    """One page: a row of panels an image, a header over each column, a footer under all.

    Args:
      rows: list of rows, each a list of (h, w, 3) uint8 panels of one size.
      headers: (title, note) of each column; notes are small and wrapped to the column.
      footer: text under the panels, wrapped to the page, may be empty.

    Returns:
      PIL image.
    """
    height, width = rows[0][0].shape[:2]
    column = max(width, NARROWEST)
    page_width = 2 * MARGIN + len(headers) * column + (len(headers) - 1) * GAP
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    titles = [wrap(title, large, column) for title, _ in headers]
    notes = [wrap(note, small, column) for _, note in headers]
    feet = wrap(footer, small, page_width - 2 * MARGIN)
    below_titles = MARGIN + max(map(len, titles)) * round(17 * 1.3) + 2
    top = below_titles + max(map(len, notes)) * round(13 * 1.3) + 10
    bottom = top + len(rows) * height + (len(rows) - 1) * GAP
    foot = (14 + len(feet) * round(13 * 1.3)) if feet else 0
    page = Image.new("RGB", (page_width, bottom + foot + MARGIN), PAGE)
    draw = ImageDraw.Draw(page)
    for c in range(len(headers)):
        left = MARGIN + c * (column + GAP)
        write_lines(draw, titles[c], left, MARGIN - 4, large, TITLE)
        write_lines(draw, notes[c], left, below_titles, small, NOTE)
        for r, row in enumerate(rows):
            page.paste(Image.fromarray(row[c]), (left, top + r * (height + GAP)))
    write_lines(draw, feet, MARGIN, bottom + 14, small, NOTE)
    return page


def save_png(image, path):
    """Write a PIL image atomically as a PNG file and return its path."""
    path = Path(path)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def _footer(caption, images):
    parts = [caption, channels_shown(np.shape(images)[-1])]
    return "  |  ".join(part for part in parts if part)


def draw_hog_reconstruction(
    images, seen, prediction, target, roles, path, *, label="HOG", caption="", full=1.0, power=2.0, gain=1.0
):
    """PNG with a row an image: original, what the encoder saw, predicted histograms, true histograms.

    Where something was thrown, what the encoder saw stands there a second time, marked by roles.

    Args:
      images, seen: (n, H, W, C) in [0, 1]; `seen` has the mask's colour in hidden patches.
      prediction, target: (n, h, w, C, bins) of the same units, one histogram a cell and channel.
      roles: (n, h, w), what every cell is, see `glyphs`; True and False are decoded and visible.
      label: name of the histograms in the titles.
      caption: footer, such as the step and the loss.
      full, power: stroke scaling; the defaults suit L2-normalised HOG. Raw sums want
        full=glyphs.shared_maximum(prediction, target), power=0.7.
      gain: magnifies the prediction on the picture, and the header says so: a mean-squared error
        shrinks uncertain predictions, so an early one is faint at gain 1.

    Returns:
      The path written.
    """
    roles, prediction, target = np.asarray(roles, int), np.asarray(prediction), np.asarray(target)
    if not prediction.shape == target.shape == (*roles.shape, *target.shape[3:]):
        raise ValueError(
            f"prediction {prediction.shape}, target {target.shape}, roles {roles.shape} disagree"
        )
    hidden = roles != VISIBLE
    _, h, w = hidden.shape
    # Whole pixels a cell keep all strokes of a kind identical; below 8 they are unreadable.
    scale = max(8, round(panel_scale(h, w)))
    size, strength = (h * scale, w * scale), {"full": full, "power": power}
    masked = [enlarge(x, *size, hidden=where) for x, where in zip(as_rgb(seen), hidden, strict=True)]
    guesses = zip(gain * prediction, target, roles, strict=True)
    magnified = "" if gain == 1 else f" x{gain:.3g}"
    predicted = f"amber: hidden cells, predicted{magnified}{told(roles)}; gray: visible cells, true"
    columns = [
        ("original", "", [enlarge(x, *size) for x in as_rgb(images)]),
        ("what the encoder saw", f"{hidden.mean():.0%} hidden", masked),
        *(_filled(column, size) for column in marked(seen, roles)),
        (
            f"predicted {label}",
            predicted,
            [glyphs.hidden_prediction(*x, scale, **strength) for x in guesses],
        ),
        (
            f"true {label}",
            "all cells; strokes lie along the edges",
            [glyphs.hog_glyphs(x, scale, **strength) for x in target],
        ),
    ]
    return _save_page(columns, path, _footer(caption, images))


def draw_pixel_reconstruction(columns, path, *, caption=""):
    """PNG with a row an image.

    Args:
      columns: a Column each.
      caption: footer, such as the step and the loss.

    Returns:
      The path written.
    """
    first = np.asarray(columns[0].images)
    scale = panel_scale(*first.shape[1:3])
    size = tuple(round(side * scale) for side in first.shape[1:3])
    return _save_page([_filled(column, size) for column in columns], path, _footer(caption, first))


def _filled(column, size):
    """A Column -> its title, note and panels of that (height, width)."""
    pictures, roles = as_rgb(column.images), column.roles
    if not len(roles):
        return column.title, column.note, [enlarge(picture, *size) for picture in pictures]
    panels = [
        enlarge(glyphs.mark(picture, role), *size, hidden=role == ABSENT)
        for picture, role in zip(pictures, roles, strict=True)
    ]
    return column.title, column.note, panels


def _save_page(columns, path, footer):
    """Writes a page of columns, each its title, note and panels."""
    rows = list(zip(*(panels for *_, panels in columns), strict=True))
    return save_png(compose(rows, [header for *header, _ in columns], footer), path)


def running_mean(values, window):
    """(n,) -> (n,): centred mean over `window` (odd) entries, fewer at the ends."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def spread(heights, least):
    """Heights of labels, pushed up in rank order until neighbours differ by at least `least`."""
    moved = np.array(heights, np.float64)
    order = np.argsort(moved, kind="stable")
    for low, high in zip(order[:-1], order[1:], strict=True):
        moved[high] = max(moved[high], moved[low] + least)
    return moved


def _in_order(steps, losses):
    """Finite points sorted by step, and how many points were not finite."""
    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    order = np.argsort(steps, kind="stable")
    order = order[np.isfinite(losses[order])]
    return steps[order], losses[order], len(losses) - len(order)


def _dark_axes(axes):
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
    """RGB 0..255 -> "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _draw_baselines(axes, baselines):
    """Dashed lines across, each named beyond its right end, where no curve runs."""
    low, high = axes.get_ylim()
    places = spread(list(baselines.values()), 0.1 * (high - low))
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for (name, value), place in zip(baselines.items(), places, strict=True):
        axes.axhline(value, color=_css(NOTE), linewidth=1, dashes=(5, 4))
        axes.text(1.01, place, f"{name}\n{value:.4g}", color=_css(NOTE), **beside)


def _draw_stages(axes, stages):
    """A thin upright line where each stage begins, named at its foot."""
    foot = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": 9}
    for name, step in stages.items():
        axes.axvline(step, color=_css(LINE), linewidth=1)
        axes.text(step, 0.01, f" {name}", color=_css(NOTE), **foot)


def draw_curve(path, steps, losses, *, baselines=None, evals=None, stages=None, title=""):
    """PNG of a loss curve: raw values thin, their running mean bold, held-out losses as dots.

    Args:
      steps, losses: (n,) of the training log, in any order; non-finite losses are left out and
        counted in the legend.
      baselines: name -> loss of a trivial predictor, drawn as a labelled dashed line.
      evals: (steps, losses) on held-out images, or None.
      stages: name -> the step at which it begins, for runs of several.
      title: line above the curve.

    Returns:
      The path written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    baselines = {k: v for k, v in (baselines or {}).items() if np.isfinite(v)}
    steps, losses, lost = _in_order(steps, losses)
    if not len(steps):
        raise UserError("no finite loss to draw: the log holds none yet")
    window = len(losses) // 100 * 2 + 1
    smooth = running_mean(losses, window)
    figure = Figure(figsize=(9.6, 4.8), dpi=120, facecolor=_css(PAGE), layout="constrained")
    axes = figure.add_subplot()
    _dark_axes(axes)
    missing = f", {lost} non-finite left out" if lost else ""
    ink, dot = _css(TRAINED), "." if len(losses) < 20 else None
    axes.plot(steps, losses, color=ink, alpha=0.35, linewidth=0.7, label="training" + missing)
    mean = f"running mean of {window}"
    axes.plot(steps, smooth, color=ink, linewidth=2.2, marker=dot, label=mean)
    shown = [smooth, np.quantile(losses, [0.01, 0.99]), list(baselines.values())]
    *held_out, _ = _in_order(*(evals or ((), ())))
    if len(held_out[0]):
        axes.plot(*held_out, "o", color=_css(HELD_OUT), markersize=5, label="held out")
        shown.append(held_out[1])
    shown = np.concatenate(shown)
    # Spikes of single steps may leave the frame; the mean, dots and baselines may not.
    pad = 0.06 * (np.ptp(shown) or abs(shown[0]) or 1.0)
    axes.set_ylim(shown.min() - pad, shown.max() + pad)
    _draw_baselines(axes, baselines)
    _draw_stages(axes, stages or {})
    axes.set_title(title, color=_css(TITLE), loc="left", fontsize=12, pad=10)
    axes.legend(frameon=False, labelcolor=_css(TITLE), fontsize=9, loc="best")
    FigureCanvasAgg(figure).draw()
    return save_png(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()), path)
