"""Antialiased bicubic resizing of uint8 arrays, by cykooz-resizer or Pillow."""

import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as cykooz
except ImportError:  # optional: faster than Pillow, equal to within 2 of 255 where nothing is clipped
    cykooz = None

Box = tuple[float, float, float, float]  # (left, top, width, height) in pixels

_thread = threading.local()


def resizer_name() -> str:
    """Return the library that resizes, for the start-up print."""
    if cykooz is None:
        return "Pillow (`pip install cykooz-resizer` resizes faster)"
    return f"cykooz-resizer ({_Cykooz.of_thread().resizer.cpu_extensions.name})"


def resample(image: np.ndarray, box: Box, out: np.ndarray) -> np.ndarray:
    """Resize a box of an image; the filter may read pixels around the box.

    Args:
      image: (H, W, C) uint8, any C and strides.
      box: in pixels of the image, fractions allowed.
      out: (h, w, C) uint8, where the result is written.

    Returns:
      out.
    """
    height, width, channels = image.shape
    left, top = box[:2]  # rounding may push the far corner slightly outside
    box = left, top, min(box[2], width - left), min(box[3], height - top)
    if cykooz is None:
        counts = [3] if channels == 3 else [1] * channels  # channels resized at a time
        resize = _pillow
    else:
        counts = [4] * (channels // 4) + [channels % 4] * (channels % 4 > 0)
        resize = _Cykooz.of_thread().resize
    first = 0
    for count in counts:
        part = slice(first, first + count)
        out[..., part] = resize(image[..., part], box, out.shape[:2])
        first += count
    return out


class _Cykooz:
    """The objects of cykooz-resizer that one thread reuses; a Resizer is not thread-safe."""

    def __init__(self):
        pixel = cykooz.PixelType
        self.resizer = cykooz.Resizer()
        self._pixel_types = {1: pixel.U8, 2: pixel.U8x2, 3: pixel.U8x3, 4: pixel.U8x4}
        self._options = cykooz.ResizeOptions(
            resize_alg=cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
            use_alpha=False,  # no channel is an alpha
        )
        self._targets = {}

    @staticmethod
    def of_thread() -> "_Cykooz":
        if not hasattr(_thread, "cykooz"):
            _thread.cykooz = _Cykooz()
        return _thread.cykooz

    def resize(self, image, box, size):
        """-> (height, width, C) uint8, read-only."""
        height, width, channels = image.shape
        source = cykooz.ImageData(width, height, self._pixel_types[channels], image.tobytes())
        target = self._target(size, channels)
        options = self._options
        if box != (0, 0, width, height):
            options = options.copy()
            options.crop_box = cykooz.CropBox(*box)
        self.resizer.resize(source, target, options)
        return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, channels)

    def _target(self, size, channels):
        key = (*size, channels)
        if key not in self._targets:
            height, width = size
            self._targets[key] = cykooz.ImageData(width, height, self._pixel_types[channels])
        return self._targets[key]


def _pillow(image, box, size):
    channels = image.shape[2]
    pixels = np.ascontiguousarray(image if channels == 3 else image[..., 0])
    left, top, width, height = box
    box = left, top, min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC, box, reducing_gap=None)
    return np.asarray(resized).reshape(*size, channels)
