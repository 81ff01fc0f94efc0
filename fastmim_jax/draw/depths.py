"""Depths beside images on a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmim_jax.draw.overlays import fit_panels
from fastmim_jax.draw.pages import compose, save_png

FAR = 0.15  # brightness of the largest depth; unknown depths are black


class DepthPicture(NamedTuple):
    """A row of a page: (H, W, 3) uint8 image, true and predicted (H, W) metres, negative: unknown."""

    image: np.ndarray
    depth: np.ndarray
    predicted: np.ndarray


def gray_depth(depth: np.ndarray, largest: float) -> np.ndarray:
    """Return (H, W, 3) uint8 of (H, W) metres: near is bright, unknown (negative) black."""
    share = np.clip(depth / largest, 0, 1)
    gray = np.where(depth < 0, 0, 255 * (1 - (1 - FAR) * share))
    return np.repeat(gray[..., None], 3, -1).round().astype(np.uint8)


def draw_depths(
    path: str | Path, pictures: Sequence[DepthPicture], largest: float, caption: str = ""
) -> Path:
    """Write a page with a row per image: the image, its true and its predicted depths; return the path.

    Args:
      largest: metres, the darkest gray. caption: footer, such as the scores.
    """
    rows = []
    for picture in pictures:
        depths = [gray_depth(values, largest) for values in (picture.depth, picture.predicted)]
        rows.append((picture.image, *depths))
    headers = [
        ("image", ()),
        ("true depth", (f"white near, dark gray {largest:.3g} m", "black: unknown")),
        ("predicted depth", ()),
    ]
    return save_png(compose(fit_panels(rows), headers, [caption]), path)
