"""Pictures of segmentations: the image, the truth and the prediction side by side."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastmim_jax.io import atomic_write

OPACITY = 0.6
GAP = 4  # pixels
BACKGROUND = 18  # gray


def class_colors(classes: int) -> np.ndarray:
    """Return (K, 3) uint8 colours, distinct for neighbouring classes: hues by the golden ratio."""
    hues = [(0.58 + index * 0.61803398875) % 1 for index in range(classes)]
    values = [
        colorsys.hsv_to_rgb(hue, 0.85 - 0.3 * (index // 7 % 2), 1.0 - 0.25 * (index % 3 == 2))
        for index, hue in enumerate(hues)
    ]
    return (np.array(values) * 255).round().astype(np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8: an image with its classes painted over it; pixels without a label stay gray.

    Args:
      image: (H, W, 3) uint8. mask: (H, W) classes, negative without a label. colors: (K, 3) uint8.
    """
    gray = image.mean(-1, keepdims=True)
    painted = (1 - OPACITY) * gray + OPACITY * colors[mask.clip(0)]
    return np.where(mask[..., None] >= 0, painted, gray).round().astype(np.uint8)


def depth_picture(depth: np.ndarray, largest: float) -> np.ndarray:
    """Return (H, W, 3) uint8: near is bright, unknown (negative) black."""
    share = np.clip(depth / largest, 0, 1)
    gray = np.where(depth < 0, 0, 255 * (1 - 0.85 * share))
    return np.repeat(gray[..., None], 3, -1).round().astype(np.uint8)


def write_rows(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write a PNG with rows of pictures of one size (H, W, 3)."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    canvas = np.full(
        (len(rows) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), BACKGROUND, np.uint8
    )
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + GAP), c * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(canvas).save(temporary, "PNG")
