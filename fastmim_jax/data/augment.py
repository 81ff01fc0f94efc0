"""Crops on the host: torchvision's RandomResizedCrop for training, the centre crop for evaluation."""

import math

import numpy as np

from fastmim_jax.data.resize import resample


def random_crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's RandomResizedCrop does.

    Args:
      rng: numpy Generator.
      height, width: size of the image in pixels.
      scale: range of the crop's area as a share of the image's.
      ratio: range of the crop's width / height, drawn log-uniformly.

    Returns:
      (left, top, width, height), integer pixels inside the image.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return int(rng.integers(width - w + 1)), top, w, h
    # No draw fitted, the image is very wide or tall: the largest central crop in the range of ratios.
    w = min(width, max(1, round(height * max(ratio))))
    h = min(height, max(1, round(width / min(ratio))))
    return (width - w) // 2, (height - h) // 2, w, h


def resize_crop(
    image: np.ndarray,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Crop a box, then resize it: bicubic, antialiased, without influence of pixels outside the box.

    Args:
      image: (H, W, C) uint8, uint16 or float32, any C.
      box: (left, top, width, height) in integer pixels inside the image.
      size: (height, width) of the result.
      out: (height, width, C) to write the result to; None for a new array.

    Returns:
      (height, width, C) of the same dtype, writable: out, or contiguous.
    """
    left, top, width, height = box
    out = np.empty((*size, image.shape[2]), image.dtype) if out is None else out
    return resample(image[top : top + height, left : left + width], (0, 0, width, height), out)


def center_crop(
    image: np.ndarray, size: tuple[int, int], resize: int | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Resize the short side, then crop the centre, as evaluation does.

    Args:
      image: (H, W, C) uint8, uint16 or float32.
      size: (height, width) of the result.
      resize: short side before the crop, in pixels, at least min(size). None: the published
        proportion, 256 for 224. For a non-square size, the image is resized until it covers `size`
        with the same margin.
      out: (height, width, C) to write the result to; None for a new array.

    Returns:
      (height, width, C) of the same dtype, writable: out, or contiguous.

    Raises:
      ValueError: `resize` is smaller than the crop.
    """
    height, width = image.shape[:2]
    short = min(size)
    resize = round(short * 256 / 224) if resize is None else resize
    if resize < short:
        raise ValueError(f"resize={resize} is smaller than the crop {size}, expected at least {short}")
    need_h, need_w = size[0] * resize / short, size[1] * resize / short
    if height * need_w <= width * need_h:  # the height is the tighter side
        full_h, full_w = round(need_h), max(size[1], int(need_h * width / height))
    else:
        full_h, full_w = max(size[0], int(need_w * height / width)), round(need_w)
    # Equal to resizing the image and cropping, without the memory of a resized long image.
    step_h, step_w = height / full_h, width / full_w
    top, left = round((full_h - size[0]) / 2.0), round((full_w - size[1]) / 2.0)
    out = np.empty((*size, image.shape[2]), image.dtype) if out is None else out
    return resample(image, (left * step_w, top * step_h, size[1] * step_w, size[0] * step_h), out)
