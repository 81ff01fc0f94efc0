"""Augmentation of an image together with its mask, and the reading of both for evaluation."""

import numpy as np

from fastmim_jax.data.masks.base import IGNORE
from fastmim_jax.data.masks.photometric import distort, draw_distortion
from fastmim_jax.data.resize import resample

MAX_CLASS_SHARE = 0.75  # of one class in a crop: `cat_max_ratio` of mmsegmentation
REDRAWS = 10  # of a crop with more of one class; the last one is taken


def augment_pair(
    image: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.5, 2.0),
    max_class_share: float = MAX_CLASS_SHARE,
    photometric: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Resize by a random factor, crop, and mirror half of the time; the same for image and mask.

    The factor 1 makes the image cover `size` as closely as its aspect ratio allows. A crop with at least
    `max_class_share` of its labelled pixels in one class is drawn again, at most REDRAWS times. A smaller
    image is padded at the right and below: black, and IGNORE in the mask. Source: RandomResize, RandomCrop,
    RandomFlip and PhotoMetricDistortion of mmsegmentation.

    Args:
      image: (H, W, C) uint8.
      mask: (H, W) integers; resized by the nearest pixel.
      size: (h, w) of the result.
      rng: decides everything, such as `crops.RandomOfPosition(seed).at(position)`.
      scale: range of the factor, drawn uniformly.
      photometric: strength of the distortion of the colours of RGB, see `draw_distortion`; 0: none.

    Returns:
      (h, w, C) of the dtype of the image, and (h, w) int32.
    """
    height, width = size
    full = covering_size(mask.shape, size, rng.uniform(*scale))
    crop_h, crop_w = min(height, full[0]), min(width, full[1])
    for _ in range(REDRAWS + 1):
        top = int(rng.integers(full[0] - crop_h + 1))
        left = int(rng.integers(full[1] - crop_w + 1))
        box = (top, left, crop_h, crop_w)
        labels = resize_mask(mask, full, box)
        if largest_share(labels) < max_class_share:
            break
    step = -1 if rng.random() < 0.5 else 1
    crop = _resize_box(image, full, box)[:, ::step]
    if photometric:
        crop = distort(crop, draw_distortion(rng, photometric))
    pixels = np.zeros((*size, image.shape[2]), image.dtype)
    pixels[:crop_h, :crop_w] = crop
    classes = np.full(size, IGNORE, np.int32)
    classes[:crop_h, :crop_w] = labels[:, ::step]
    return pixels, classes


def resize_short_side(
    image: np.ndarray, mask: np.ndarray, short: int, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image and its mask so that the short side is `short`, and keep the ratio of the sides.

    Args:
      image: (H, W, C) uint8. mask: (H, W) integers.
      multiple: sides of the result are rounded to multiples of it, such as the stride of a backbone.

    Returns:
      (h, w, C) of the dtype of the image, and (h, w) int32.
    """
    height, width = mask.shape
    factor = short / min(height, width)
    full = tuple(max(multiple, round(side * factor / multiple) * multiple) for side in (height, width))
    return fit(image, mask, (full[0], full[1]))


def fit(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image and its mask to a size (h, w), whatever their ratio of sides."""
    whole = (0, 0, *size)
    return _resize_box(image, size, whole), resize_mask(mask, size, whole)


def covering_size(shape: tuple[int, ...], size: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """Return (h, w) of an image after resizing: it covers `size` as closely as possible, times a factor."""
    height, width = shape[:2]
    times = factor * max(size[0] / height, size[1] / width)
    return max(1, round(height * times)), max(1, round(width * times))


def resize_mask(mask: np.ndarray, full: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """Return (h, w) int32: a box of the mask after resizing to `full` by the nearest pixel.

    Args:
      full: (H, W) of the resized mask.
      box: (top, left, h, w) in it.
    """
    rows = _nearest(mask.shape[0], full[0], box[0], box[2])
    columns = _nearest(mask.shape[1], full[1], box[1], box[3])
    return mask[rows[:, None], columns].astype(np.int32)


def largest_share(mask: np.ndarray) -> float:
    """Return the share of the most frequent class among the labelled pixels; 1 without any."""
    counts = np.bincount(mask[mask >= 0].ravel())
    return float(counts.max() / counts.sum()) if len(counts) else 1.0


def _nearest(source: int, full: int, start: int, count: int) -> np.ndarray:
    """-> (count,) indices of the pixels whose areas hold the centers of resized pixels."""
    centers = (np.arange(start, start + count) + 0.5) * (source / full)
    return np.minimum(centers.astype(np.int64), source - 1)


def _resize_box(image: np.ndarray, full: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """-> (h, w, C): a box of the image after resizing to `full`; without resizing it all."""
    top, left, height, width = box
    step_h, step_w = image.shape[0] / full[0], image.shape[1] / full[1]
    out = np.empty((height, width, image.shape[2]), image.dtype)
    if (image.shape[0], image.shape[1]) == full:
        return np.ascontiguousarray(image[top : top + height, left : left + width])
    return resample(image, (left * step_w, top * step_h, width * step_w, height * step_h), out)
