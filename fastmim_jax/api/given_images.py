"""Images as Python has them: arrays, Pillow images, paths, folders, data sets, or a list of these."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from fastmim_jax.data.image_formats import describe_extensions
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.pillow_image import orientation_of, to_channels, upright
from fastmim_jax.data.sources import Source, evaluation_split, open_source
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.errors import UserError

EXPECTED = "expected a path, a Pillow image, an array (height, width, channels), or a list of these"


def open_images(images: Any, channels: int, rules: DecodeRules) -> Source:
    """Return the source of any images.

    Args:
      images: the path of a folder, a data set or an image (see `open_source`; of a data set with splits its
        val or test split), a Source, an array (n, H, W, C) or (H, W, C), a Pillow image, or a list of paths
        of images, Pillow images and arrays (H, W, C), (H, W).
      channels: of the model.
      rules: of decoding.

    Raises:
      UserError: something else, or nothing.
    """
    if isinstance(images, str | os.PathLike):
        return open_source(images, evaluation_split(images) or "train")
    if isinstance(images, Source):
        return images
    if isinstance(images, Image.Image):
        return cast(Source, GivenImages([images], channels, rules))
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        if array.ndim not in (3, 4):
            raise UserError(f"an array of shape {array.shape}, expected (n, height, width, channels)")
        images = array if array.ndim == 4 else array[None]
    elif not isinstance(images, Iterable):
        raise UserError(f"images is {images!r:.60}, {EXPECTED}")
    return cast(
        Source, GivenImages(images if isinstance(images, np.ndarray) else list(images), channels, rules)
    )


class GivenImages:
    """Images in memory or at paths, without labels, in the order given; a `Source`.

    Attributes:
      names: the paths, or "image 0", ...
    """

    classes: Sequence[str] = ()
    notices: Sequence[str] = ()

    def __init__(self, images: Sequence[Any] | np.ndarray, channels: int, rules: DecodeRules):
        """Raises UserError: no image, or something that is none."""
        if not len(images):
            raise UserError(f"no images were given, {EXPECTED}")
        self._images, self._channels = images, channels
        self._to_8_bits = rules.has_8_bits
        self.names = [_name(image, index) for index, image in enumerate(images)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        image = self._images[index]
        if isinstance(image, str | os.PathLike):
            return read_file(os.fspath(image))
        if isinstance(image, Image.Image):
            return upright(to_channels(image, self._channels), orientation_of(image))
        array = np.asarray(image)
        if array.dtype.kind == "f" and self._to_8_bits:
            return _to_8_bits(array, self.names[index])
        return array

    def name(self, index: int) -> str:
        return self.names[index]

    def label(self, index: int) -> int:
        return -1

    def label_problem(self) -> str:
        return "images in memory have no labels; expected a folder with one folder per class."

    def __repr__(self) -> str:
        return f"{len(self):,} given image{'s' * (len(self) != 1)}"


def _name(image: Any, index: int) -> str:
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if not os.path.isfile(path):
            seen = "is a folder" if os.path.isdir(path) else "does not exist"
            raise UserError(
                f"{path} {seen}, expected an image in a list of images ({describe_extensions()}): give the "
                "path of a folder by itself"
            )
        return path
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or f"image {index}"
    if not hasattr(image, "__array__"):
        raise UserError(f"image {index} is {image!r:.60}, {EXPECTED}")
    shape = np.shape(image)
    if len(shape) not in (2, 3):
        raise UserError(f"image {index} is an array of shape {shape}, expected (height, width, channels)")
    return f"image {index}"


def _to_8_bits(array: np.ndarray, name: str) -> np.ndarray:
    """Return uint8 of floating-point values in [0, 1], as 8-bit data trains a model."""
    low, high = float(np.min(array)), float(np.max(array))
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{name} has floating-point values from {low:g} to {high:g}, expected 0 to 1, or uint8: "
            "give the pixels before they are normalised"
        )
    return np.round(array * 255).astype(np.uint8)
