"""Images with a label for every pixel: what every layout returns, and what can be wrong with a mask."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from fastmim_jax.data.decode import DEFAULT_RULES, read_image
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.masks.label_image import read_label_image
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.pillow_image import orientation_of
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.errors import UserError

IGNORE = -1  # class of pixels without a label
BEYOND = -2  # of a coding: the value stands for no class


class MaskedImage(NamedTuple):
    """An image and the class of each of its pixels.

    image: (H, W, 3) uint8. mask: (H, W) int32, IGNORE where there is no label. name: for messages.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str


class MaskedImages(Protocol):
    """Images with masks, read at random; it can be pickled for worker processes.

    class_names: of the K classes. notices: sentences on files that are left out.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def notices(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def names(self, index: int) -> str:
        """Return a name of image `index` for messages, such as its path."""

    def read(self, index: int) -> MaskedImage:
        """Return image `index` with its mask.

        Raises:
          MaskError: the image or its mask cannot be used.
        """


# (values of a label image, see `read_label_image`; path of the file) -> (H, W) int32 classes
Coding = Callable[[np.ndarray, str], np.ndarray]


@dataclasses.dataclass(repr=False, eq=False)
class MaskedFiles:
    """Images and masks in files of their own, a `MaskedImages`; also a `Source` of unlabelled images.

    Attributes:
      path: of the data set.
      class_names: of the K classes.
      image_paths, mask_paths: of the n pairs, in order.
      coding: values of a mask -> classes.
      notices: sentences on files that are left out.
      rules: of decoding.
    """

    path: str
    class_names: tuple[str, ...]
    image_paths: tuple[str, ...]
    mask_paths: tuple[str, ...]
    coding: Coding
    notices: Sequence[str] = ()
    rules: DecodeRules = DEFAULT_RULES

    classes: Sequence[str] = ()  # of whole images, as a `Source` has them

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.image_paths[index])

    def content(self, index: int) -> bytes:
        """Return the bytes of mask and image `index`, which tell whether either has changed."""
        return read_file(self.mask_paths[index]) + self[index]

    def name(self, index: int) -> str:
        """Return the path of image `index`."""
        return self.image_paths[index]

    names = name

    def label(self, index: int) -> int:
        """Return -1: an image as a whole has no label."""
        return (-1, self.image_paths[index])[0]

    def label_problem(self) -> str:
        return f"{self.path} has labels of pixels, not of images; expected one folder of images per class."

    def read(self, index: int) -> MaskedImage:
        """Return image `index` with its mask; raises MaskError."""
        path = self.image_paths[index]
        try:
            image = read_image(self, index, 3, self.rules)
        except DecodeError as error:
            raise MaskError("image", path, error.reason) from error
        mask = self.read_mask(index)
        self._compare_sizes(index, image.shape[:2], mask.shape)
        return MaskedImage(image, mask, path)

    def read_mask(self, index: int) -> np.ndarray:
        """Return (H, W) int32, the mask of image `index`, IGNORE without a label; raises MaskError."""
        path = self.mask_paths[index]
        mask = self.coding(self.read_values(path), path)
        return np.ascontiguousarray(mask, np.int32)

    def read_values(self, path: str) -> np.ndarray:
        """Return the values of a mask, see `read_label_image`."""
        return read_label_image(path, self.rules)

    def check(self, index: int) -> np.ndarray:
        """Return the mask of image `index` after comparing its size with the header of the image.

        Raises:
          MaskError: the mask cannot be used, or the image has no header.
        """
        mask = self.read_mask(index)
        self._compare_sizes(index, self._image_size(index), mask.shape)
        return mask

    def _image_size(self, index: int) -> tuple[int, ...]:
        """-> (H, W) of an image, upright."""
        try:
            with Image.open(self.image_paths[index]) as image:
                width, height = image.size
                return (width, height) if orientation_of(image) >= 5 else (height, width)
        except Exception:  # .npy, HEIF, or a broken file
            try:
                return read_image(self, index, 3, self.rules).shape[:2]
            except DecodeError as error:
                raise MaskError("image", self.image_paths[index], error.reason) from error

    def _compare_sizes(self, index: int, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
        if image == mask:
            return
        kind = "rotated" if image == mask[::-1] and self._is_turned(index) else "size"
        seen = f"{mask[1]} x {mask[0]}, the image {image[1]} x {image[0]}"
        raise MaskError(kind, self.mask_paths[index], seen)

    def _is_turned(self, index: int) -> bool:
        """Return whether a viewer turns an image by 90 degrees, by its EXIF orientation."""
        try:
            with Image.open(self.image_paths[index]) as image:
                return orientation_of(image) >= 5
        except OSError:
            return False

    def __repr__(self) -> str:
        images, classes = len(self), len(self.class_names)
        return (
            f"{type(self).__name__}({self.path!r}, {images:,} image{'s' * (images != 1)} with masks, "
            f"{classes:,} class{'es' * (classes != 1)})"
        )


class Request(NamedTuple):
    """A split of masks to open.

    split: of the data set. legend: path of a legend file, or "". classes: names of the classes, or None.
    """

    split: str
    legend: str = ""
    classes: tuple[str, ...] | None = None


def own_classes(path: str, own: tuple[str, ...], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the classes of a data set: those that are given, or `own` without names given.

    Raises:
      UserError: names of another number of classes are given.
    """
    if given is not None and len(given) != len(own):
        raise UserError(
            f"{path} has {len(own):,} classes, expected {len(given):,}, as the model or the training data "
            "has: give data with these classes, or leave config.model.classes unset"
        )
    return own if given in (None, number_names(len(own))) else given


def number_names(count: int) -> tuple[str, ...]:
    """Return the names of classes that have none: ("class 0", "class 1", ...)."""
    return tuple(f"class {index}" for index in range(count))
