"""Antialiased bicubic resizing of uint8, uint16 and float32 arrays, by cykooz-resizer or Pillow."""

import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as cykooz
except ImportError:  # optional: faster than Pillow, equal to within 2 of 255 where nothing is clipped
    cykooz = None

Box = tuple[float, float, float, float]  # (left, top, width, height) in pixels

_CENTER = 1e-6  # pixels

_thread = threading.local()


def resizer_name() -> str:
    """Return the library that resizes, for the start-up print."""
    if cykooz is None:
        return "Pillow (`pip install cykooz-resizer` resizes faster)"
    return f"cykooz-resizer ({_Cykooz.of_thread().resizer.cpu_extensions.name})"


def resample(image: np.ndarray, box: Box, out: np.ndarray) -> np.ndarray:
    """Resize a box of an image; the filter may read pixels around the box.

    Args:
      image: (H, W, C) uint8, uint16, or float32 in [0, 1]; any C and strides.
      box: in pixels of the image, fractions allowed.
      out: (h, w, C) of the same dtype, where the result is written, clipped to the range of pixels.

    Returns:
      out.
    """
    height, width, channels = image.shape
    left, top = box[:2]  # rounding may push the far corner slightly outside
    box = left, top, min(box[2], width - left), min(box[3], height - top)
    if cykooz is None:
        together = channels == 3 and image.dtype == np.uint8
        counts = [3] if together else [1] * channels  # channels resized at a time
        resize = _pillow if image.dtype == np.uint8 else _pillow_wide
    else:
        counts = [4] * (channels // 4) + [channels % 4] * (channels % 4 > 0)
        resize = _Cykooz.of_thread().resize
    first = 0
    for count in counts:
        part = slice(first, first + count)
        out[..., part] = resize(image[..., part], box, out.shape[:2])
        first += count
    if out.dtype == np.float32:
        np.clip(out, 0, 1, out=out)  # the filter overshoots
    return out


class _Cykooz:
    """The objects of cykooz-resizer that one thread reuses; a Resizer is not thread-safe."""

    def __init__(self):
        pixel = cykooz.PixelType
        self.resizer = cykooz.Resizer()
        self._pixel_types = {
            "uint8": (pixel.U8, pixel.U8x2, pixel.U8x3, pixel.U8x4),
            "uint16": (pixel.U16, pixel.U16x2, pixel.U16x3, pixel.U16x4),
            "float32": (pixel.F32, pixel.F32x2, pixel.F32x3, pixel.F32x4),
        }
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
        """-> (height, width, C) of the same dtype, read-only."""
        height, width, channels = image.shape
        if channels == 1 and image.dtype == np.uint8 and box == (0, 0, width, height):
            return self._columns(self._columns(image[..., 0], size[0]).T, size[1]).T[..., None]
        kind = self._pixel_types[image.dtype.name][channels - 1]
        source = cykooz.ImageData(width, height, kind, image.tobytes())
        target = self._target(size, kind)
        options = self._options
        if box != (0, 0, width, height):
            options = options.copy()
            left, top = _off_centers(box[0], box[2], size[1]), _off_centers(box[1], box[3], size[0])
            options.crop_box = cykooz.CropBox(left, top, *box[2:])
        self.resizer.resize(source, target, options)
        return np.frombuffer(target.get_buffer(), image.dtype).reshape(*size, channels)

    def _columns(self, plane, height):
        """Resize the columns of (H, W) uint8 -> (height, W), read-only.

        Rows then are the columns of the transposed plane: the library resizes those of one channel at a
        fifth of the speed of columns. The result is the same, as it resizes columns first, too.
        """
        rows, width = plane.shape
        kind = self._pixel_types["uint8"][0]
        target = cykooz.ImageData(width, height, kind)
        self.resizer.resize(cykooz.ImageData(width, rows, kind, plane.tobytes()), target, self._options)
        return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width)

    def _target(self, size, kind):
        key = (*size, kind)
        if key not in self._targets:
            height, width = size
            self._targets[key] = cykooz.ImageData(width, height, kind)
        return self._targets[key]


def _off_centers(start, extent, count):
    """Return the start of an interval, moved so that no pixel at its ends is the center of a source pixel.

    Where one is, all other weights of its filter are 0 and the library (4.0.1) drops them. It takes the
    source rows that the output needs from the filters at both ends, reads others outside of its memory, and
    crashes or returns noise.
    """
    scale = extent / count
    ends = start + scale / 2, start + extent - scale / 2
    if scale >= 1 or all(abs(end % 1 - 0.5) > _CENTER for end in ends):
        return start
    return start - 2 * _CENTER if start >= 2 * _CENTER else start + 2 * _CENTER


def _pillow(image, box, size):
    channels = image.shape[2]
    pixels = np.ascontiguousarray(image if channels == 3 else image[..., 0])
    left, top, width, height = box
    box = left, top, min(left + width, pixels.shape[1]), min(top + height, pixels.shape[0])
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC, box, reducing_gap=None)
    return np.asarray(resized).reshape(*size, channels)


def _pillow_wide(image, box, size):
    """Resize (H, W, 1) uint16 or float32; uint16 is clipped."""
    resized = _pillow(image.astype(np.float32), box, size)
    return resized if image.dtype == np.float32 else np.rint(resized).clip(0, 65535).astype(np.uint16)
