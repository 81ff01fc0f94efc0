"""Pascal VOC: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ of VOCdevkit/VOC2012."""

import os

from fastmim_jax.data.masks.base import MaskedFiles, Request, own_classes
from fastmim_jax.data.masks.coding import OF_DOWNLOAD, values_from_zero
from fastmim_jax.data.masks.pairs import pair_names
from fastmim_jax.data.masks.splits import choose_folder
from fastmim_jax.errors import UserError

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
_LISTS = os.path.join("ImageSets", "Segmentation")
# The 10,582 training images of the published numbers are VOC's and SBD's, with masks in their own folder.
_MASKS = {"trainaug": "SegmentationClassAug"}


def matches(path: str) -> bool:
    """Return whether a folder is that of Pascal VOC, or holds it."""
    return _root(path) is not None


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits, of the lists without ".txt"."""
    root = _root(path)
    found = os.listdir(os.path.join(root, _LISTS)) if root else []
    names = sorted(name.removesuffix(".txt") for name in found if name.endswith(".txt"))
    order = [name for name in ("train", "val", "test") if name in names]
    return (*order, *(name for name in names if name not in order))


def open_split(path: str, request: Request) -> MaskedFiles:
    """Open a split: palette indices are classes, 0 the background, 255 no label.

    Raises:
      UserError: no such split, or no pair in it.
    """
    root = _root(path) or path
    split = choose_folder(path, request.split, {name: name for name in split_names(path)})
    listed_in = os.path.join(root, _LISTS, f"{split}.txt")
    try:
        with open(listed_in, encoding="utf-8") as file:
            names = [line.split()[0] for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listed_in} cannot be read; expected a name of an image per line") from error
    folder = os.path.join(root, _MASKS.get(split, "SegmentationClass"))
    pairs = pair_names(os.path.join(root, "JPEGImages"), folder, names, listed_in)
    classes = own_classes(root, NAMES, request.classes)
    coding = values_from_zero(len(classes), problems=OF_DOWNLOAD)
    return MaskedFiles(root, classes, pairs.images, pairs.masks, coding, pairs.notices)


def _root(path: str) -> str | None:
    for below in ("", "VOC2012", os.path.join("VOCdevkit", "VOC2012")):
        root = os.path.join(path, below) if below else path
        if all(
            os.path.isdir(os.path.join(root, name)) for name in ("JPEGImages", "SegmentationClass", _LISTS)
        ):
            return root
    return None
