"""Pages of labelled pictures: rows of panels under column headers, saved as PNG.

NumPy and Pillow alone draw: no device is used.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from fastmim_jax.draw import glyphs
from fastmim_jax.draw.glyphs import ABSENT, VISIBLE, thrown_legend
from fastmim_jax.draw.style import (
    GAP,
    LEADING,
    MARGIN,
    NARROWEST,
    NOTE,
    NOTE_FONT,
    PAGE,
    PANEL,
    TITLE,
    TITLE_FONT,
    WIDEST,
    font,
)
from fastmim_jax.io import atomic_write
from fastmim_jax.models.typing import Array

SOFTWARE = "fastmim_jax"  # in the metadata of pictures


class Column(NamedTuple):
    """A column of images on a page.

    title: text above it. notes: small text below the title; of predicted pixels they must say what is
    taken from the truth. images: (n, H, W, C) in [0, 1]. roles: (n, h, w) roles of the patches (see
    `glyphs`), which are marked; empty to mark none.
    """

    title: str
    notes: tuple[str, ...]
    images: Array
    roles: Array | tuple = ()


class PanelColumn(NamedTuple):
    """A column of a page, ready to paste; panels: (h, w, 3) uint8 pictures of one size."""

    title: str
    notes: tuple[str, ...]
    panels: list[np.ndarray]


def as_rgb(images: Array) -> np.ndarray:
    """(n, H, W, C) floats in [0, 1] -> (n, H, W, 3) uint8: gray for C < 3, else three channels."""
    pixels = np.nan_to_num(np.asarray(images, np.float64))
    shown = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, axis=-1)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def channels_note(channels: int) -> str:
    """Return a note on which channels `as_rgb` shows, empty if it shows all of them."""
    if channels in (1, 3):
        return ""
    return f"channel 1 of {channels} shown" if channels < 3 else f"channels 1-3 of {channels} shown"


def panel_scale(height: int, width: int) -> float:
    """Return the magnification that makes a panel `PANEL` high, but at most `WIDEST` wide."""
    return min(PANEL / height, WIDEST / width)


def enlarge(picture: np.ndarray, height: int, width: int, sharp: np.ndarray | None = None) -> np.ndarray:
    """Resize a picture, bicubic.

    Args:
      picture: (H, W, 3) uint8.
      height, width: of the result.
      sharp: (h, w) bool, patches whose edges stay sharp, or None.

    Returns:
      (height, width, 3) uint8.
    """
    image = Image.fromarray(picture)
    smooth = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if sharp is None:
        return smooth
    # Bicubic would let visible pixels ring into the flat colour of the mask.
    nearest = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    patches = Image.fromarray(sharp.astype(np.uint8) * 255)
    inside = np.asarray(patches.resize((width, height), Image.Resampling.NEAREST)) > 0
    return np.where(inside[..., None], nearest, smooth)


def marked_column(images: Array, roles: Array) -> list[Column]:
    """Return a Column that marks visible, decoded and thrown patches, or no Column if none was thrown."""
    legend = thrown_legend(roles)
    notes = ("amber: decoded", *legend, "the rest: visible")
    return [Column("the same, marked", notes, images, roles)] if legend else []


def wrap(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break text into lines of at most `width` pixels, or of a single longer word."""
    lines: list[str] = []
    for word in text.split():
        if lines and face.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def line_height(font_size: float) -> int:
    """Return the distance between lines in pixels."""
    return round(font_size * LEADING)


def write_lines(
    draw: ImageDraw.ImageDraw,
    lines: Iterable[str],
    x: int,
    y: int,
    face: ImageFont.FreeTypeFont,
    colour: tuple,
) -> None:
    """Draw lines of text downwards from (x, y)."""
    for i, line in enumerate(lines):
        draw.text((x, y + i * line_height(face.size)), line, font=face, fill=colour)


def compose(
    rows: Sequence[Sequence[np.ndarray]],
    headers: Sequence[tuple[str, Sequence[str]]],
    footer: Iterable[str],
) -> Image.Image:
    """Compose a page: a row of panels per image, a header over each column, a footer below.

    Args:
      rows: rows of (h, w, 3) uint8 panels of one size.
      headers: (title, notes) of each column; notes are small and wrapped to the column.
      footer: notes below the panels, wrapped to the page; empty ones are left out.
    """
    height, width = rows[0][0].shape[:2]
    column = max(width, NARROWEST)
    page_width = 2 * MARGIN + len(headers) * column + (len(headers) - 1) * GAP
    large, small = font(TITLE_FONT), font(NOTE_FONT)
    titles = [wrap(title, large, column) for title, _ in headers]
    notes = [wrap("; ".join(notes), small, column) for _, notes in headers]
    footer = wrap("  |  ".join(filter(None, footer)), small, page_width - 2 * MARGIN)
    notes_top = MARGIN + max(map(len, titles)) * line_height(TITLE_FONT) + 2
    top = notes_top + max(map(len, notes)) * line_height(NOTE_FONT) + 10
    bottom = top + len(rows) * height + (len(rows) - 1) * GAP
    footer_height = (14 + len(footer) * line_height(NOTE_FONT)) if footer else 0
    page = Image.new("RGB", (page_width, bottom + footer_height + MARGIN), PAGE)
    draw = ImageDraw.Draw(page)
    for c in range(len(headers)):
        left = MARGIN + c * (column + GAP)
        write_lines(draw, titles[c], left, MARGIN - 4, large, TITLE)
        write_lines(draw, notes[c], left, notes_top, small, NOTE)
        for r, row in enumerate(rows):
            page.paste(Image.fromarray(row[c]), (left, top + r * (height + GAP)))
    write_lines(draw, footer, MARGIN, bottom + 14, small, NOTE)
    return page


def save_png(image: Image.Image, path: str | Path) -> Path:
    """Write a PIL image atomically as a PNG file, which names this program, and return its path."""
    path, texts = Path(path), PngInfo()
    texts.add_text("Software", SOFTWARE)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=texts)
    return path


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure of `style.make_figure` as `save_png` does, and return its path."""
    figure.canvas.draw()
    return save_png(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()), path)


def is_own_png(path: str | Path) -> bool:
    """Return whether `save_png` wrote a file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, SyntaxError, ValueError):  # as Pillow reports damaged files
        return False


def draw_hog_reconstruction(
    images: np.ndarray,
    encoder_input: np.ndarray,
    prediction: np.ndarray,
    target: np.ndarray,
    roles: np.ndarray,
    path: str | Path,
    *,
    label: str = "HOG",
    caption: str = "",
    full: float = 1.0,
    power: float = 2.0,
    gain: float = 1.0,
) -> Path:
    """Write a PNG with a row per image: original, encoder input, predicted histograms, true histograms.

    If patches were thrown, one more column has the encoder input with all patches marked by their role.

    Args:
      images: (n, H, W, C) in [0, 1].
      encoder_input: the same with the mask's colour in masked patches.
      prediction, target: (n, h, w, C, bins) of the same units, one histogram per cell and channel.
      roles: (n, h, w) roles of the cells, see `glyphs`; True counts as decoded and False as visible.
      label: name of the histograms in the titles.
      caption: footer, such as the step and the loss.
      full, power: scaling of strokes; the defaults suit L2-normalised HOG. Raw sums need
        full=glyphs.shared_maximum(prediction, target), power=0.7.
      gain: magnification of the prediction, which the header states: a mean-squared error shrinks
        uncertain predictions, so early ones are faint at gain 1.

    Returns:
      The path.

    Raises:
      ValueError: shapes that differ.
    """
    roles, prediction, target = np.asarray(roles, int), np.asarray(prediction), np.asarray(target)
    if not prediction.shape == target.shape == (*roles.shape, *target.shape[3:]):
        raise ValueError(
            f"prediction {prediction.shape}, target {target.shape}, roles {roles.shape}: expected equal "
            "(n, h, w), and prediction and target of one shape"
        )
    h, w = roles.shape[1:]
    # Integer pixels per cell make equal strokes look equal; below 8 they are unreadable.
    scale = max(8, round(panel_scale(h, w)))
    size, strokes = (h * scale, w * scale), {"full": full, "power": power}
    truth = [glyphs.hog_glyphs(x, scale, full=full, power=power) for x in target]
    columns = [
        PanelColumn("original", (), [enlarge(x, *size) for x in as_rgb(images)]),
        _encoder_input_column(encoder_input, roles != VISIBLE, size),
        *(_panel_column(column, size) for column in marked_column(encoder_input, roles)),
        _prediction_column(label, prediction, target, roles, scale, gain, strokes),
        PanelColumn(f"true {label}", ("all cells", "strokes lie along the edges"), truth),
    ]
    return _save_page(columns, path, caption, np.shape(images)[-1])


def _encoder_input_column(images, masked, size):
    panels = [enlarge(x, *size, sharp=cells) for x, cells in zip(as_rgb(images), masked, strict=True)]
    return PanelColumn("encoder input", (f"{masked.mean():.0%} masked",), panels)


def _prediction_column(label, prediction, target, roles, scale, gain, strokes):
    amber = "amber: masked cells, predicted" + ("" if gain == 1 else f" x{gain:.3g}")
    notes = (amber, *thrown_legend(roles), "gray: visible cells, true")
    images = zip(gain * prediction, target, roles, strict=True)
    return PanelColumn(
        f"predicted {label}", notes, [glyphs.prediction_glyphs(*x, scale, **strokes) for x in images]
    )


def draw_pixel_reconstruction(columns: Sequence[Column], path: str | Path, *, caption: str = "") -> Path:
    """Write a PNG with a row per image.

    Args:
      columns: the columns of images.
      caption: footer, such as the step and the loss.

    Returns:
      The path.
    """
    height, width, channels = np.shape(columns[0].images)[1:]
    scale = panel_scale(height, width)
    size = round(height * scale), round(width * scale)
    return _save_page([_panel_column(column, size) for column in columns], path, caption, channels)


def _panel_column(column, size):
    """Enlarge the images of a Column to (height, width), with their patches marked."""
    pictures, roles = as_rgb(column.images), column.roles
    if not len(roles):
        return PanelColumn(column.title, column.notes, [enlarge(picture, *size) for picture in pictures])
    panels = [
        enlarge(glyphs.mark_patches(picture, role), *size, sharp=role == ABSENT)
        for picture, role in zip(pictures, roles, strict=True)
    ]
    return PanelColumn(column.title, column.notes, panels)


def _save_page(columns, path, caption, channels):
    rows = list(zip(*(column.panels for column in columns), strict=True))
    headers = [(column.title, column.notes) for column in columns]
    return save_png(compose(rows, headers, (caption, channels_note(channels))), path)
