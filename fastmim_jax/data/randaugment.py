"""RandAugment on the host, timm's policy `rand-m9-mstd0.5-inc1` (`timm/data/auto_augment.py`)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_LEVEL = 10
IMAGENET_FILL = (124, 116, 104)  # the mean pixel
GRAY_FILL = 128  # of every channel of images that are not RGB
_BICUBIC = Image.Resampling.BICUBIC
_VALUES = np.arange(256)


def _map_values(image, table):
    return image.point(table.tolist() * len(image.getbands()))


def _posterize(image, dropped_bits):
    return _map_values(image, _VALUES >> dropped_bits << dropped_bits)


def _solarize(image, threshold):
    return _map_values(image, np.where(_VALUES < threshold, _VALUES, 255 - _VALUES))


def _solarize_add(image, increment):
    return _map_values(image, np.where(_VALUES < 128, np.minimum(_VALUES + increment, 255), _VALUES))


def _enhance(enhancer, image, change):
    return enhancer(image).enhance(1 + 0.9 * change)


def _affine(image, fill, *, shear=(0, 0), shift=(0, 0)):
    """Shear about the top left corner; `shift` is a share of (width, height)."""
    matrix = (1, shear[0], shift[0] * image.width, shear[1], 1, shift[1] * image.height)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _BICUBIC, fillcolor=fill)


# name -> function(image, m, s, fill) of a Pillow image of mode RGB or L. m is the level / 10, in [0, 1];
# s is m or -m; fill is the value, one per band, of pixels from outside the image.
OPERATIONS = {
    "AutoContrast": lambda image, m, s, fill: ImageOps.autocontrast(image),
    "Equalize": lambda image, m, s, fill: ImageOps.equalize(image),
    "Invert": lambda image, m, s, fill: ImageOps.invert(image),
    "Rotate": lambda image, m, s, fill: image.rotate(30 * s, _BICUBIC, fillcolor=fill),
    "PosterizeIncreasing": lambda image, m, s, fill: _posterize(image, 4 + int(4 * m)),  # all 8 at level 10
    "SolarizeIncreasing": lambda image, m, s, fill: _solarize(image, 256 - int(256 * m)),
    "SolarizeAdd": lambda image, m, s, fill: _solarize_add(image, int(110 * m)),
    "ColorIncreasing": lambda image, m, s, fill: _enhance(ImageEnhance.Color, image, s),
    "ContrastIncreasing": lambda image, m, s, fill: _enhance(ImageEnhance.Contrast, image, s),
    "BrightnessIncreasing": lambda image, m, s, fill: _enhance(ImageEnhance.Brightness, image, s),
    "SharpnessIncreasing": lambda image, m, s, fill: _enhance(ImageEnhance.Sharpness, image, s),
    "ShearX": lambda image, m, s, fill: _affine(image, fill, shear=(0.3 * s, 0)),
    "ShearY": lambda image, m, s, fill: _affine(image, fill, shear=(0, 0.3 * s)),
    "TranslateXRel": lambda image, m, s, fill: _affine(image, fill, shift=(0.45 * s, 0)),
    "TranslateYRel": lambda image, m, s, fill: _affine(image, fill, shift=(0, 0.45 * s)),
}
_NAMES = tuple(OPERATIONS)


class Operation(NamedTuple):
    """One drawn operation: a key of OPERATIONS, a level in [0, 10], a sign of -1 or 1."""

    name: str
    level: float
    sign: int


class RandAugment:
    """A few random operations per image; picklable.

    Source: RandAugment (arXiv 1909.13719) with timm's "increasing" set, in which every operation is
    stronger at a higher level, and timm's noise on the level; MAE, SimMIM, MixMIM and FastMIM fine-tune
    with it.
    """

    def __init__(
        self,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        num_ops: int = 2,
        probability: float = 0.5,
        fill: float | Sequence[float] | None = None,
    ):
        """Args:
        magnitude, magnitude_std: of the normal distribution of levels, which are clipped to [0, 10].
        num_ops: number of operations drawn per image, uniformly and with replacement.
        probability: probability that a drawn operation is applied.
        fill: value of pixels from outside the image, 0 to 255: a number, one per channel, or None for
          ImageNet's mean pixel with 3 channels and 128 otherwise.
        """
        self.magnitude, self.magnitude_std = magnitude, magnitude_std
        self.num_ops, self.probability, self.fill = num_ops, probability, fill

    def draw(self, rng: np.random.Generator) -> list[Operation]:
        """Draw the operations for one image; every image advances `rng` by as much."""
        names = rng.integers(len(_NAMES), size=self.num_ops)
        applied = rng.random(self.num_ops) < self.probability
        levels = rng.normal(self.magnitude, self.magnitude_std, self.num_ops).clip(0, MAX_LEVEL)
        signs = 2 * rng.integers(2, size=self.num_ops) - 1
        chosen = np.flatnonzero(applied)
        return [Operation(_NAMES[names[i]], float(levels[i]), int(signs[i])) for i in chosen]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment one image.

        Args:
          image: (H, W, C) uint8, any C.
          rng: numpy Generator.

        Returns:
          (H, W, C) uint8; the image itself where nothing is applied.

        Raises:
          ValueError: `fill` has neither one value nor C.
        """
        return apply_operations(image, self.draw(rng), self.fill)


def apply_operations(
    image: np.ndarray, operations: Sequence[Operation], fill: float | Sequence[float] | None = None
) -> np.ndarray:
    """Apply operations one after the other.

    With three channels, the image is RGB. With any other number, each channel is a gray image, all with
    the same parameters; "ColorIncreasing" then does nothing.

    Args:
      image: (H, W, C) uint8.
      operations: see `RandAugment.draw`.
      fill: see `RandAugment`.

    Returns:
      (H, W, C) uint8; the image itself without operations.

    Raises:
      ValueError: `fill` has neither one value nor C.
    """
    channels = image.shape[2]
    fills = _fill_values(fill, channels)
    if not operations:
        return image
    if channels == 3:
        return np.array(_apply_all(image, operations, fills))
    return np.stack([_apply_all(image[..., c], operations, fills[c]) for c in range(channels)], axis=-1)


def _apply_all(pixels, operations, fill):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for name, level, sign in operations:
        m = level / MAX_LEVEL
        image = OPERATIONS[name](image, m, sign * m, fill)
    return image


def _fill_values(fill, channels):
    """-> one integer per channel."""
    if fill is None:
        fill = IMAGENET_FILL if channels == 3 else GRAY_FILL
    values = tuple(int(round(value)) for value in np.atleast_1d(fill))
    if len(values) not in (1, channels):
        raise ValueError(f"fill has {len(values)} values, expected 1 or one per channel ({channels})")
    return values if len(values) == channels else values * channels
