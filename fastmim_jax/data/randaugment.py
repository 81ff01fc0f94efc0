"""RandAugment on the host, as timm's policy `rand-m9-mstd0.5-inc1` has it (`timm/data/auto_augment.py`)."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from fastmim_jax.errors import UserError

MAX_LEVEL = 10
IMAGENET_FILL = (124, 116, 104)  # the mean pixel
GRAY_FILL = 128  # of every channel where there are not three
_BICUBIC = Image.Resampling.BICUBIC
_VALUES = np.arange(256)


def _look_up(image, table):
    return image.point(table.tolist() * len(image.getbands()))


def _posterize(image, dropped):
    return _look_up(image, _VALUES >> dropped << dropped)


def _solarize(image, threshold):
    return _look_up(image, np.where(_VALUES < threshold, _VALUES, 255 - _VALUES))


def _solarize_add(image, added):
    return _look_up(image, np.where(_VALUES < 128, np.minimum(_VALUES + added, 255), _VALUES))


def _enhance(kind, image, change):
    return kind(image).enhance(1 + 0.9 * change)


def _affine(image, fill, *, shear=(0, 0), shift=(0, 0)):
    """Shears about the top left corner; `shift` is a share of (width, height)."""
    matrix = (1, shear[0], shift[0] * image.width, shear[1], 1, shift[1] * image.height)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _BICUBIC, fillcolor=fill)


# name -> function(image, m, s, fill): a Pillow image of mode RGB or L to the same; m is the level / 10, in
# [0, 1]; s is m or -m; fill is the value (one per band) of what comes from outside.
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


class Draw(NamedTuple):
    """One operation: a key of OPERATIONS, a level in [0, 10], a sign of -1 or 1."""

    name: str
    level: float
    sign: int


class RandAugment:
    """A few random operations per image; may be pickled.

    Source: RandAugment (arXiv 1909.13719) with timm's "increasing" set, each operation harsher at a higher
    level, and with timm's noise on the level; what MAE, SimMIM, MixMIM and FastMIM fine-tune with.

    Args:
      magnitude, deviation: of the normal distribution of levels, which are then clipped to [0, 10].
      count: operations drawn per image, uniformly and with replacement.
      probability: that a drawn operation is applied.
      fill: 0 to 255, of pixels from outside: a number, one per channel, or None for ImageNet's mean pixel
        where there are 3 channels and 128 elsewhere.
    """

    def __init__(self, magnitude=9.0, magnitude_std=0.5, count=2, probability=0.5, fill=None):
        self.magnitude, self.magnitude_std = magnitude, magnitude_std
        self.count, self.probability, self.fill = count, probability, fill

    def draw(self, rng):
        """The operations for one image, a list of Draw; takes the same numbers from rng for every image."""
        names = rng.integers(len(_NAMES), size=self.count)
        applied = rng.random(self.count) < self.probability
        levels = rng.normal(self.magnitude, self.magnitude_std, self.count).clip(0, MAX_LEVEL)
        signs = 2 * rng.integers(2, size=self.count) - 1
        return [Draw(_NAMES[names[i]], float(levels[i]), int(signs[i])) for i in np.flatnonzero(applied)]

    def __call__(self, image, rng):
        """Augments one image.

        Args:
          image: (H, W, C) uint8, any C.
          rng: numpy Generator.

        Returns:
          (H, W, C) uint8; the image itself where nothing is applied.

        Raises:
          UserError: `fill` has neither one value nor C.
        """
        return apply(image, self.draw(rng), self.fill)


def apply(image, draws, fill=None):
    """Carries drawn operations out, one after the other.

    Three channels are an RGB picture. With any other number each channel is a gray picture of its own, all
    with the same parameters; "ColorIncreasing" then does nothing.

    Args:
      image: (H, W, C) uint8.
      draws: list of Draw.
      fill: as for RandAugment.

    Returns:
      (H, W, C) uint8.

    Raises:
      UserError: `fill` has neither one value nor C.
    """
    channels = image.shape[2]
    fills = _fill(fill, channels)
    if not draws:
        return image
    if channels == 3:
        return np.array(_chain(image, draws, fills))
    return np.stack([_chain(image[..., c], draws, fills[c]) for c in range(channels)], axis=-1)


def _chain(pixels, draws, fill):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for name, level, sign in draws:
        m = level / MAX_LEVEL
        image = OPERATIONS[name](image, m, sign * m, fill)
    return image


def _fill(fill, channels):
    """-> one whole number per channel."""
    if fill is None:
        fill = IMAGENET_FILL if channels == 3 else GRAY_FILL
    values = tuple(int(round(value)) for value in np.atleast_1d(fill))
    if len(values) not in (1, channels):
        raise UserError(
            f"RandAugment fills with {len(values)} values but images have {channels} channels: give 1"
            f" value, or {channels}"
        )
    return values if len(values) == channels else values * channels
