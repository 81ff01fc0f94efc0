"""Photometric distortion of an image: its brightness, contrast, saturation and hue, each half of the time.

Source: PhotoMetricDistortion of mmsegmentation, which is that of SSD (arXiv 1512.02325).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

# Largest changes at strength 1.
BRIGHTNESS = 32.0  # added to values of 0 to 255
CONTRAST, SATURATION = 0.5, 0.5  # of factors around 1
HUE = 36.0  # degrees
CIRCLE = 255  # steps of hue in Pillow's HSV


class Distortion(NamedTuple):
    """A distortion; the defaults change nothing.

    brightness: added to all values. contrast: factor of all values. contrast_first: before saturation and
    hue instead of after them. saturation: factor of the saturation in HSV. hue: degrees in HSV.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = True
    saturation: float = 1.0
    hue: float = 0.0


def draw_distortion(rng: np.random.Generator, strength: float = 1.0) -> Distortion:
    """Draw a distortion.

    Args:
      strength: factor of the largest changes, from 0 to 2; 1 as published.
    """
    changes = rng.uniform(-strength, strength, 4) * (rng.random(4) < 0.5)
    brightness, contrast, saturation, hue = map(float, changes)
    return Distortion(
        BRIGHTNESS * brightness,
        1 + CONTRAST * contrast,
        bool(rng.random() < 0.5),
        1 + SATURATION * saturation,
        HUE * hue,
    )


def distort(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """Return (H, W, 3) uint8: an image of RGB after brightness, contrast, saturation, hue, in this order.

    Each step ends with values of 0 to 255, clipped and without their fractions, as published.
    """
    brightness, contrast, contrast_first, saturation, hue = distortion
    before, after = _table(add=brightness), _table(factor=contrast)
    if contrast_first or (saturation == 1 and hue == 0):
        before, after = after[before], _table()
    pixels = Image.fromarray(image).point(before.tolist() * 3)
    if saturation != 1 or hue != 0:
        turned = (np.arange(256) + round(hue * CIRCLE / 360)) % CIRCLE
        tables = [turned if hue else _table(), _table(factor=saturation), _table()]
        pixels = pixels.convert("HSV").point(np.concatenate(tables).tolist()).convert("RGB")
        pixels = pixels.point(after.tolist() * 3)
    return np.asarray(pixels)


def _table(factor: float = 1.0, add: float = 0.0) -> np.ndarray:
    """-> (256,) int, the value that takes the place of each."""
    return np.clip(np.arange(256) * factor + add, 0, 255).astype(int)
