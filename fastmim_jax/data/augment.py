"""Crops on the host, as published: torchvision's RandomResizedCrop and the usual centre crop."""

import math
import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as cykooz
except ImportError:  # an optional accelerator, to within 2 of 255 where nothing is clipped
    cykooz = None

_thread = threading.local()


def resizer_name():
    """What resizes here, for the start-up print."""
    if cykooz is None:
        return "Pillow (`pip install cykooz-resizer` resizes faster)"
    return f"cykooz-resizer ({_resizer()[0].cpu_extensions.name})"


def random_crop_box(rng, height, width, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draw a crop as torchvision's RandomResizedCrop does.

    Args:
      rng: numpy Generator.
      height, width: of the image, in pixels.
      scale: range of the crop's area as a share of the image's.
      ratio: range of the crop's width / height, drawn log-uniformly.

    Returns:
      (left, top, width, height), whole pixels inside the image.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            return int(rng.integers(width - w + 1)), top, w, h
    # No luck, the image is long or tall: the largest central crop inside the range of ratios.
    w = min(width, max(1, round(height * max(ratio))))
    h = min(height, max(1, round(width / min(ratio))))
    return (width - w) // 2, (height - h) // 2, w, h


def resize_crop(image, box, size):
    """Cut a box out, then resize it: bicubic, antialiased, no pixel outside the box is looked at.

    Args:
      image: (H, W, C) uint8, any C.
      box: (left, top, width, height) in whole pixels inside the image.
      size: (height, width) of the result.

    Returns:
      (height, width, C) uint8, contiguous and writable.
    """
    left, top, width, height = box
    return _resample(image[top : top + height, left : left + width], (0, 0, width, height), size)


def center_crop(image, size, resize=None):
    """Resize the short side, then cut out the centre; what evaluation looks at.

    Args:
      image: (H, W, C) uint8.
      size: (height, width) of the result.
      resize: what the short side becomes before the cut, in pixels, at least min(size). None: the
        published proportion, 256 for 224. For a non-square size, the image is resized until it
        covers `size` with the same margin.

    Returns:
      (height, width, C) uint8, contiguous and writable.
    """
    height, width = image.shape[:2]
    short = min(size)
    resize = round(short * 256 / 224) if resize is None else resize
    if resize < short:
        raise ValueError(f"resize={resize} is smaller than the crop {size}")
    need_h, need_w = size[0] * resize / short, size[1] * resize / short
    if height * need_w <= width * need_h:  # the height is what is scarce
        full_h, full_w = round(need_h), max(size[1], int(need_h * width / height))
    else:
        full_h, full_w = max(size[0], int(need_w * height / width)), round(need_w)
    # The same pixels as resizing all of it and cutting, without making a long image huge.
    step_h, step_w = height / full_h, width / full_w
    top, left = round((full_h - size[0]) / 2.0), round((full_w - size[1]) / 2.0)
    return _resample(image, (left * step_w, top * step_h, size[1] * step_w, size[0] * step_h), size)


def _resample(image, box, size):
    """box: (left, top, width, height), fractions allowed; the filter may reach outside of it."""
    height, width, channels = image.shape
    left, top = box[:2]  # rounding may push the far corner a hair outside
    box = left, top, min(box[2], width - left), min(box[3], height - top)
    if cykooz is None:
        parts = [3] if channels == 3 else [1] * channels
        resample = _pillow
    else:
        parts = [4] * (channels // 4) + [channels % 4] * (channels % 4 > 0)
        resample = _cykooz
    if len(parts) == 1:
        return resample(image, box, size).copy()  # owned: the resizers hand out read-only buffers
    first = np.cumsum([0, *parts])
    return np.concatenate(
        [resample(image[..., a : a + n], box, size) for a, n in zip(first, parts, strict=False)], -1
    )


def _resizer():
    if not hasattr(_thread, "resizer"):  # not to be shared between threads
        kinds = cykooz.PixelType
        kinds = {1: kinds.U8, 2: kinds.U8x2, 3: kinds.U8x3, 4: kinds.U8x4}
        _thread.resizer = cykooz.Resizer(), kinds
    return _thread.resizer


def _cykooz(image, box, size):
    (height, width, channels), (out_h, out_w) = image.shape, size
    resizer, kinds = _resizer()
    source = cykooz.ImageData(width, height, kinds[channels], image.tobytes())
    target = cykooz.ImageData(out_w, out_h, kinds[channels])
    options = cykooz.ResizeOptions(
        resize_alg=cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
        crop_box=cykooz.CropBox(*box),
        use_alpha=False,  # the second of 2 and the fourth of 4 channels need not be an alpha
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
