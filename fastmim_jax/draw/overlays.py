"""Label maps: over images on a page, and as PNG files that other programs read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fastmim_jax.draw.pages import compose, line_height, save_png
from fastmim_jax.draw.style import GAP, MARGIN, NOTE, NOTE_FONT, PAGE, PANEL, font
from fastmim_jax.io import atomic_write

OPACITY = 0.6  # of the colours over the image
PALETTE = 256  # classes up to which a label map has a palette
LISTED = 24  # classes that a page names
SWATCH = 12  # pixels


class LabelledPicture(NamedTuple):
    """An image of a page of segmentations.

    image: (H, W, 3) uint8. mask, labels: (H, W) true and predicted classes, negative where there is none.
    """

    image: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


def class_colours(classes: int) -> np.ndarray:
    """Return (K, 3) uint8 colours, the first ones far apart: those of Pascal VOC after its black."""
    numbers = np.arange(1, classes + 1)[:, None]
    bits = np.arange(8)
    channels = [((numbers >> (3 * bits + channel)) & 1) << (7 - bits) for channel in range(3)]
    return np.stack([channel.sum(1) for channel in channels], -1).astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (H, W, 3) uint8: an image in gray under the colours of its labels; negative ones have none.

    Args:
      image: (H, W, 3) uint8. labels: (H, W) integers. classes: K, of the palette.
    """
    coloured = class_colours(classes)[np.maximum(labels, 0)]
    mixed = (1 - OPACITY) * image.mean(-1, keepdims=True) + OPACITY * coloured
    return np.where(labels[..., None] >= 0, mixed, image).round().astype(np.uint8)


def draw_segmentations(
    path: str | Path, pictures: Sequence[LabelledPicture], classes: Sequence[str], caption: str = ""
) -> Path:
    """Write a page with a row per image: the image, its true and its predicted classes; return the path.

    Args:
      classes: their names. caption: footer, such as the step and the mIoU.
    """
    count = len(classes)
    rows = [(x.image, overlay(x.image, x.mask, count), overlay(x.image, x.labels, count)) for x in pictures]
    headers = [
        ("image", ()),
        ("true classes", ("no colour: no label",)),
        ("predicted classes", ()),
    ]
    page = compose(fit_panels(rows), headers, [caption])
    shown = np.unique(np.concatenate([x.ravel() for picture in pictures for x in picture[1:]]))
    return save_png(add_key(page, shown[shown >= 0].tolist(), classes), path)


def fit_panels(rows: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """Return panels of one size, as flat as the images allow, with each image in the middle of its own."""
    height = max(round(PANEL * min(1, x.shape[0] / x.shape[1])) for row in rows for x in row)
    return [[_fit_panel(panel, max(1, height)) for panel in row] for row in rows]


def _fit_panel(panel: np.ndarray, height: int) -> np.ndarray:
    image = Image.fromarray(panel)
    factor = min(PANEL / image.width, height / image.height)
    image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)
    page = Image.new("RGB", (PANEL, height), PAGE)
    page.paste(image, ((PANEL - image.width) // 2, (height - image.height) // 2))
    return np.asarray(page)


def add_key(page: Image.Image, shown: Sequence[int], classes: Sequence[str]) -> Image.Image:
    """Return a page with a strip below it: colour and name of the first LISTED classes that it shows."""
    face, colours = font(NOTE_FONT), class_colours(len(classes))
    entries = [(colours[index], classes[index]) for index in shown[:LISTED]]
    if len(shown) > LISTED:
        entries.append((PAGE, f"and {len(shown) - LISTED} more"))
    places, x, y = [], MARGIN, page.height
    for colour, name in entries:
        width = SWATCH + round(face.getlength(name)) + 2 * GAP
        if x > MARGIN and x + width > page.width - MARGIN:
            x, y = MARGIN, y + line_height(NOTE_FONT) + 4
        places.append((x, y, colour, name))
        x += width
    result = Image.new("RGB", (page.width, y + line_height(NOTE_FONT) + MARGIN), PAGE)
    result.paste(page, (0, 0))
    draw = ImageDraw.Draw(result)
    for x, y, colour, name in places:
        draw.rectangle((x, y + 2, x + SWATCH, y + 2 + SWATCH), fill=tuple(colour))
        draw.text((x + SWATCH + 6, y), name, font=face, fill=NOTE)
    return result


def save_label_map(path: str | Path, labels: np.ndarray, classes: int) -> Path:
    """Write (H, W) classes as the values of a PNG: with a palette up to 256 classes, else 16 bits."""
    path = Path(path)
    if classes <= PALETTE:
        image = Image.fromarray(labels.astype(np.uint8), mode="L")
        image.putpalette(class_colours(classes).tobytes())
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path
