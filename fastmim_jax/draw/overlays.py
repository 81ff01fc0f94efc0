"""Label maps: over images on a page, and as PNG files that other programs read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastmim_jax.draw.pages import compose, save_png
from fastmim_jax.draw.style import PAGE, PANEL
from fastmim_jax.io import atomic_write

OPACITY = 0.6  # of the colours over the image
PALETTE = 256  # classes up to which a label map has a palette
LISTED = 12  # classes that a page names


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
    count, rows = len(classes), []
    for picture in pictures:
        panels = [
            picture.image,
            overlay(picture.image, picture.mask, count),
            overlay(picture.image, picture.labels, count),
        ]
        rows.append([fit_panel(panel) for panel in panels])
    seen = np.unique(np.concatenate([np.unique(picture.mask) for picture in pictures]))
    names = [classes[index] for index in seen if index >= 0]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    headers = [
        ("image", ()),
        ("true classes", (", ".join(names[:LISTED]) + more, "no colour: no label")),
        ("predicted classes", ("one colour per class",)),
    ]
    return save_png(compose(rows, headers, [caption]), path)


def fit_panel(panel: np.ndarray) -> np.ndarray:
    """Return a panel of one size, with the image in its middle."""
    image = Image.fromarray(panel)
    factor = PANEL / max(image.size)
    image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)
    page = Image.new("RGB", (PANEL, PANEL), PAGE)
    page.paste(image, ((PANEL - image.width) // 2, (PANEL - image.height) // 2))
    return np.asarray(page)


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
