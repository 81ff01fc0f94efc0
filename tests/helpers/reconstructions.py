"""Random images with HOG and predictions, to draw."""

import numpy as np

from fastmim_jax.draw import glyphs

BINS = 9
ROLES = np.array([[glyphs.VISIBLE, glyphs.DECODED], [glyphs.FILLED, glyphs.ABSENT]])


def plain_hog(images, cell=8):
    """(n, H, W, C) -> (n, h, w, C, 9), normalised: an independent NumPy implementation."""
    n, height, width, channels = images.shape
    p = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across, down = p[:, :, :-2] - p[:, :, 2:], p[:, :-2] - p[:, 2:]
    gx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    gy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    votes = np.floor(np.arctan2(gx, gy) / np.pi * BINS).astype(int) % BINS
    sums = np.where(votes[..., None] == np.arange(BINS), np.hypot(gx, gy)[..., None], 0.0)
    sums = sums.reshape(n, height // cell, cell, width // cell, cell, channels, BINS).sum((2, 4))
    return sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12)


def random_reconstruction(height=64, width=64, channels=3, n=2):
    """Return images, encoder inputs, predicted HOG, true HOG and the mask of the cells."""
    rng = np.random.default_rng(0)
    images = rng.random((n, height // 8, width // 8, channels)).repeat(8, 1).repeat(8, 2)
    mask = rng.random((n, height // 16, width // 16)) < 0.75
    encoder_input = np.where(mask.repeat(16, 1).repeat(16, 2)[..., None], 0.5, images)
    target = plain_hog(images)
    prediction = target + 0.1 * rng.normal(size=target.shape)
    return images, encoder_input, prediction, target, mask.repeat(2, 1).repeat(2, 2)
