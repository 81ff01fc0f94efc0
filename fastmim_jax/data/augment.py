"""Crops on the host: torchvision's RandomResizedCrop for training, the centre crop for evaluation."""

import math
import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as cykooz
except ImportError:  # optional: faster than Pillow, equal to within 2 of 255 where nothing is clipped
    cykooz = None

_thread = threading.local()


def resizer_name() -> str:
    """Return the library that resizes, for the start-up print."""
    if cykooz is None:
        return "Pillow (`pip install cykooz-resizer` resizes faster)"
    return f"cykooz-resizer ({_resizer()[0].cpu_extensions.name})"


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


def resize_crop(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Crop a box, then resize it: bicubic, antialiased, without influence of pixels outside the box.

    Args:
      image: (H, W, C) uint8, any C.
      box: (left, top, width, height) in integer pixels inside the image.
      size: (height, width) of the result.

    Returns:
      (height, width, C) uint8, contiguous and writable.
    """
    left, top, width, height = box
    return _resample(image[top : top + height, left : left + width], (0, 0, width, height), size)


def center_crop(image: np.ndarray, size: tuple[int, int], resize: int | None = None) -> np.ndarray:
    """Resize the short side, then crop the centre, as evaluation does.

    Args:
      image: (H, W, C) uint8.
      size: (height, width) of the result.
      resize: short side before the crop, in pixels, at least min(size). None: the published
        proportion, 256 for 224. For a non-square size, the image is resized until it covers `size`
        with the same margin.

    Returns:
      (height, width, C) uint8, contiguous and writable.

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
    return _resample(image, (left * step_w, top * step_h, size[1] * step_w, size[0] * step_h), size)


def _resample(image, box, size):
    """box: (left, top, width, height), fractions allowed; the filter may read pixels around it."""
    height, width, channels = image.shape
    left, top = box[:2]  # rounding may push the far corner slightly outside
    box = left, top, min(box[2], width - left), min(box[3], height - top)
    if cykooz is None:
        counts = [3] if channels == 3 else [1] * channels  # channels resized at a time
        resample = _pillow
    else:
        counts = [4] * (channels // 4) + [channels % 4] * (channels % 4 > 0)
        resample = _cykooz
    if len(counts) == 1:
        return resample(image, box, size).copy()  # the resizers return read-only buffers
    first = np.cumsum([0, *counts])
    return np.concatenate(
        [resample(image[..., a : a + n], box, size) for a, n in zip(first, counts, strict=False)], -1
    )


def _resizer():
    if not hasattr(_thread, "resizer"):  # a Resizer is not thread-safe
        pixel = cykooz.PixelType
        pixel_types = {1: pixel.U8, 2: pixel.U8x2, 3: pixel.U8x3, 4: pixel.U8x4}
        _thread.resizer = cykooz.Resizer(), pixel_types
    return _thread.resizer


def _cykooz(image, box, size):
    (height, width, channels), (out_h, out_w) = image.shape, size
    resizer, pixel_types = _resizer()
    source = cykooz.ImageData(width, height, pixel_types[channels], image.tobytes())
    target = cykooz.ImageData(out_w, out_h, pixel_types[channels])
    options = cykooz.ResizeOptions(
        resize_alg=cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
        crop_box=cykooz.CropBox(*box),
        use_alpha=False,  # no channel is an alpha
    )
    resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(out_h, out_w, channels)


def _pillow(image, box, size):
    channels = image.shape[2]
    pixels = np.ascontiguousarray(image if channels == 3 else image[..., 0])
    left, top, width, height = box
    box = left, top, min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
    image = Image.fromarray(pixels)
    resized = image.resize(size[::-1], Image.Resampling.BICUBIC, box, reducing_gap=None)
    return np.asarray(resized).reshape(*size, channels)
