"""Drawing of patches in the colours of their roles, and of HOG as stars of strokes along the edges."""

import numpy as np

from fastmim_jax.draw.style import AMBER, BLUE, DIM_GROUND, DIM_INK, FLAT, GROUND, INK
from fastmim_jax.models.typing import Array

# Roles of a patch. VISIBLE: the encoder sees it. The others are masked: DECODED by the decoder; thrown and
# FILLED in from neighbours; thrown and ABSENT, without a prediction.
VISIBLE, DECODED, FILLED, ABSENT = range(4)
INKS = np.array([DIM_INK, AMBER, BLUE, FLAT])  # by role
GROUNDS = np.array([DIM_GROUND, GROUND, GROUND, FLAT])
TINTS = np.array([0.0, 0.5, 0.5, 1.0])  # share of the ink in a marked patch
THROWN_LEGEND = {
    FILLED: "blue: thrown, filled in from neighbours",
    ABSENT: "flat gray: thrown, not predicted",
}


def thrown_legend(roles: Array) -> tuple[str, ...]:
    """Return the legend of the colours of thrown patches; empty without such patches."""
    return tuple(text for role, text in THROWN_LEGEND.items() if (roles == role).any())


def only_absent(roles: Array) -> np.ndarray:
    """Return the roles with all patches but ABSENT ones as VISIBLE, so that only ABSENT ones are marked."""
    return np.where(roles == ABSENT, ABSENT, VISIBLE)


def mark_patches(picture: np.ndarray, roles: np.ndarray) -> np.ndarray:
    """Tint patches with the ink of their role, except visible ones.

    Args:
      picture: (H, W, 3) uint8.
      roles: (h, w) int.

    Returns:
      (H, W, 3) uint8.
    """
    side = len(picture) // len(roles)
    fine = roles.repeat(side, 0).repeat(side, 1)
    # Tinted gray and not tinted colours: amber over blue pixels would be gray.
    share, gray = TINTS[fine][..., None], picture.mean(-1, keepdims=True)
    tinted = np.rint((1 - share) * gray + share * INKS[fine]).astype(np.uint8)
    return np.where(fine[..., None] == VISIBLE, picture, tinted)


def stroke_strength(cells: np.ndarray, full: float = 1.0, power: float = 2.0) -> np.ndarray:
    """Return how strongly each orientation is drawn.

    Args:
      cells: (..., C, bins) histograms, any range; predictions may be negative or not finite.
      full: channel-mean value of a full stroke: 1 for L2-normalised cells, and
        `shared_maximum(prediction, target)` for raw sums.
      power: above 1, dominant orientations stand out and flat histograms recede.

    Returns:
      (..., bins) float in [0, 1]. The strength of a cell depends on that cell alone.
    """
    finite = np.nan_to_num(np.asarray(cells, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    # Channels that disagree average to a flat histogram, so colour noise fades.
    mean = finite.mean(axis=-2)
    return np.clip(mean / max(full, 1e-12), 0.0, 1.0) ** power


def shared_maximum(*hogs: Array, quantile: float = 0.99) -> float:
    """Return the `quantile` of the largest channel-mean value of each non-empty cell, over all arguments.

    A quantile and not the maximum: raw sums have a long tail, and one cell would darken all others.
    """
    peaks = np.concatenate(
        [np.nan_to_num(np.asarray(h, np.float64)).mean(-2).max(-1).ravel() for h in hogs]
    )
    peaks = peaks[peaks > 0]
    return float(np.quantile(peaks, quantile)) if peaks.size else 1.0


def stroke_direction(bin_index: int, bins: int) -> np.ndarray:
    """Return the unit vector (x to the right, y down) along the edges in the middle of a bin.

    HOG measures the gradient by atan2(gx, gy), so the gradient points along (sin a, cos a) in
    (x, y); rotated by 90 degrees this is (cos a, -sin a).
    """
    angle = np.pi * (bin_index + 0.5) / bins
    return np.array([np.cos(angle), -np.sin(angle)])


def draw_strokes(strength: np.ndarray, scale: int) -> np.ndarray:
    """Draw strokes with anti-aliasing.

    Args:
      strength: (h, w, bins) in [0, 1].
      scale: side of a cell in pixels.

    Returns:
      (h*scale, w*scale) brightness in [0, 1].
    """
    h, w, bins = strength.shape
    offset = np.arange(scale) + 0.5 - scale / 2
    half_width = np.clip(0.085 * scale, 0.6, 1.7)
    drawn = np.zeros((h, w, scale, scale))
    for b in range(bins):
        x, y = stroke_direction(b, bins)
        along = np.abs(offset[None, :] * x + offset[:, None] * y)
        across = np.abs(offset[None, :] * y - offset[:, None] * x)
        weight = strength[:, :, b, None, None]
        half_length = (0.5 * scale - 0.5) * weight**0.35
        # Anti-aliasing: the distance to the border of the stroke, clipped to one pixel.
        side = np.clip(half_width + 0.5 - across, 0, 1)
        tip = np.clip(half_length + 0.5 - along, 0, 1)
        np.maximum(drawn, side * tip * weight**0.65, out=drawn)
    return drawn.transpose(0, 2, 1, 3).reshape(h * scale, w * scale)


def paint(brightness: np.ndarray, ink: np.ndarray | tuple, ground: np.ndarray | tuple) -> np.ndarray:
    """Blend from ground to ink: (H, W) in [0, 1] and RGB colours (broadcast) -> (H, W, 3) uint8."""
    ink, ground = np.asarray(ink, np.float64), np.asarray(ground, np.float64)
    mixed = ground + brightness[..., None] * (ink - ground)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def hog_glyphs(
    cells: np.ndarray,
    scale: int = 16,
    *,
    ink: tuple = INK,
    ground: tuple = GROUND,
    full: float = 1.0,
    power: float = 2.0,
) -> np.ndarray:
    """Draw HOG: a star of strokes per cell, longer and brighter with their weight.

    Args:
      cells: (h, w, C, bins) histograms.
      scale: side of a cell in pixels.
      ink, ground: RGB 0..255 of a full stroke and of the background.
      full, power: see `stroke_strength`.

    Returns:
      (h*scale, w*scale, 3) uint8.
    """
    return paint(draw_strokes(stroke_strength(cells, full, power), scale), ink, ground)


def prediction_glyphs(
    prediction: np.ndarray,
    target: np.ndarray,
    roles: np.ndarray,
    scale: int,
    *,
    full: float = 1.0,
    power: float = 2.0,
) -> np.ndarray:
    """Draw predicted HOG in masked cells, in the ink of their role, and dimmed true HOG in visible ones.

    Args:
      prediction, target: (h, w, C, bins).
      roles: (h, w) int.
      scale: side of a cell in pixels.
      full, power: see `stroke_strength`.

    Returns:
      (h*scale, w*scale, 3) uint8.
    """
    cells = np.where(roles[..., None, None] == VISIBLE, target, prediction)
    strokes = draw_strokes(stroke_strength(cells, full, power), scale)
    fine = roles.repeat(scale, 0).repeat(scale, 1)
    return paint(strokes, INKS[fine], GROUNDS[fine])
