"""How cells are drawn: by the colours of their roles, and HOG as stars of strokes.

Each stroke lies along the edges that voted for it.
"""

import numpy as np

GROUND = (17, 19, 24)
INK = (246, 240, 228)
PREDICTED_INK, FILLED_INK = (255, 198, 92), (111, 190, 255)  # amber, blue
TRUE_INK, TRUE_GROUND = (98, 107, 122), (31, 34, 41)  # dimmed: cells where nothing is predicted
FLAT = (62, 66, 75)

# What a patch is: seen by the encoder; hidden and decoded; hidden, not decoded but filled in from its
# neighbours; hidden and not predicted at all.
VISIBLE, DECODED, FILLED, ABSENT = range(4)
INKS = np.array([TRUE_INK, PREDICTED_INK, FILLED_INK, FLAT])  # of each, in this order
GROUNDS = np.array([TRUE_GROUND, GROUND, GROUND, FLAT])
TINTS = np.array([0.0, 0.5, 0.5, 1.0])  # share of the ink in a marked patch
TOLD = {
    FILLED: "; blue: thrown out, then filled in from neighbours",
    ABSENT: "; flat gray: thrown out, not predicted",
}


def told(roles):
    """What the colours of thrown patches mean, in words that continue a note; empty if there are none."""
    return "".join(words for role, words in TOLD.items() if (roles == role).any())


def not_predicted(roles):
    """The same roles, of which only what is not predicted is left to mark."""
    return np.where(roles == ABSENT, ABSENT, VISIBLE)


def mark(picture, roles):
    """(H, W, 3) uint8 with every patch of (h, w) roles in the shades of its ink, all but visible ones."""
    side = len(picture) // len(roles)
    fine = roles.repeat(side, 0).repeat(side, 1)
    # Shades and not colours: amber over blue pixels would be gray.
    share, shades = TINTS[fine][..., None], picture.mean(-1, keepdims=True)
    tinted = np.rint((1 - share) * shades + share * INKS[fine]).astype(np.uint8)
    return np.where(fine[..., None] == VISIBLE, picture, tinted)


def stroke_strength(cells, full=1.0, power=2.0):
    """How strongly each orientation is drawn.

    Args:
      cells: (..., C, bins) histograms, any range; predictions may be negative or not finite.
      full: channel-mean value that gives a full stroke: 1 for L2-normalised cells, and
        `shared_maximum(prediction, target)` for raw sums.
      power: above 1, dominant orientations stand out and flat histograms recede.

    Returns:
      (..., bins) float in [0, 1]. A cell's strength depends on that cell alone.
    """
    finite = np.nan_to_num(np.asarray(cells, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    # Channels that disagree cancel towards a flat histogram, so colour noise fades with the mean.
    mean = finite.mean(axis=-2)
    return np.clip(mean / max(full, 1e-12), 0.0, 1.0) ** power


def shared_maximum(*hogs, quantile=0.99):
    """The `quantile` of the largest channel-mean value of each non-empty cell, over all arguments.

    A quantile and not the maximum: raw sums have a long tail, and one cell would darken the rest.
    """
    peaks = [np.nan_to_num(np.asarray(h, np.float64)).mean(-2).max(-1).ravel() for h in hogs]
    peaks = np.concatenate(peaks)
    peaks = peaks[peaks > 0]
    return float(np.quantile(peaks, quantile)) if peaks.size else 1.0


def stroke_direction(bin_index, bins):
    """Unit vector (x to the right, y down) along the edges that fall in the middle of a bin.

    HOG measures the gradient by atan2(gx, gy), so the gradient points along (sin a, cos a) in
    (x, y); turned by 90 degrees this is (cos a, -sin a).
    """
    angle = np.pi * (bin_index + 0.5) / bins
    return np.array([np.cos(angle), -np.sin(angle)])


def draw_strokes(strength, scale):
    """(h, w, bins) strengths in [0, 1] -> (h*scale, w*scale) brightness in [0, 1]."""
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
        # Distance to the stroke's rim, cut to one pixel, is the anti-aliasing.
        side = np.clip(half_width + 0.5 - across, 0, 1)
        tip = np.clip(half_length + 0.5 - along, 0, 1)
        np.maximum(drawn, side * tip * weight**0.65, out=drawn)
    return drawn.transpose(0, 2, 1, 3).reshape(h * scale, w * scale)


def paint(brightness, ink, ground):
    """(H, W) in [0, 1] and colours that broadcast to (H, W, 3) -> (H, W, 3) uint8."""
    ink, ground = np.asarray(ink, np.float64), np.asarray(ground, np.float64)
    mixed = ground + brightness[..., None] * (ink - ground)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def hog_glyphs(cells, scale=16, *, ink=INK, ground=GROUND, full=1.0, power=2.0):
    """HOG as a picture: one star of strokes a cell, longer and brighter with its weight.

    Args:
      cells: (h, w, C, bins) histograms.
      scale: side of a cell on the picture in pixels.
      ink, ground: RGB 0..255 of a full stroke and of the background.
      full, power: see `stroke_strength`.

    Returns:
      (h*scale, w*scale, 3) uint8.
    """
    return paint(draw_strokes(stroke_strength(cells, full, power), scale), ink, ground)


def hidden_prediction(prediction, target, roles, scale, *, full=1.0, power=2.0):
    """One panel: predicted glyphs in hidden cells, dimmed true glyphs in visible ones.

    Args:
      prediction, target: (h, w, C, bins); roles: (h, w) int, VISIBLE, DECODED, FILLED or ABSENT.
      scale: side of a cell in pixels; full, power: see `stroke_strength`.

    Returns:
      (h*scale, w*scale, 3) uint8.
    """
    chosen = np.where(roles[..., None, None] == VISIBLE, target, prediction)
    strokes = draw_strokes(stroke_strength(chosen, full, power), scale)
    fine = roles.repeat(scale, 0).repeat(scale, 1)
    return paint(strokes, INKS[fine], GROUNDS[fine])
