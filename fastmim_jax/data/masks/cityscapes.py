"""Cityscapes: leftImg8bit/ and gtFine/, 19 classes."""

import os

import numpy as np

from fastmim_jax.data.masks.base import BEYOND, IGNORE, MaskedFiles, Request, own_classes
from fastmim_jax.data.masks.coding import OF_DOWNLOAD, ValueCoding, values_from_zero
from fastmim_jax.data.masks.pairs import pair_folders
from fastmim_jax.data.masks.splits import choose_folder
from fastmim_jax.data.sources.listing import subfolders

NAMES = (
    *(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
    ),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
# Label ids of the train ids 0 to 18; source: cityscapesScripts, helpers/labels.py.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_TRAIN_IDS, _LABEL_IDS = "_gtFine_labelTrainIds", "_gtFine_labelIds"


def matches(path: str) -> bool:
    """Return whether a folder is that of Cityscapes."""
    return all(os.path.isdir(os.path.join(path, name)) for name in (_IMAGES, _MASKS))


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits that are there."""
    there = set(subfolders(os.path.join(path, _IMAGES))) & set(subfolders(os.path.join(path, _MASKS)))
    return tuple(name for name in ("train", "val", "test") if name in there)


def open_split(path: str, request: Request) -> MaskedFiles:
    """Open a split: *_labelTrainIds.png where there are some, else *_labelIds.png with the 19 train ids.

    Raises:
      UserError: no such split, or no pair in it.
    """
    split = choose_folder(path, request.split, {name: name for name in split_names(path)})
    images, masks = os.path.join(path, _IMAGES, split), os.path.join(path, _MASKS, split)
    names = own_classes(path, NAMES, request.classes)
    has_train_ids = any(
        name.endswith(f"{_TRAIN_IDS}.png") for _, _, files in os.walk(masks) for name in files
    )
    end, coding = (
        (_TRAIN_IDS, values_from_zero(len(NAMES), problems=OF_DOWNLOAD))
        if has_train_ids
        else (_LABEL_IDS, _from_label_ids())
    )
    pairs = pair_folders(images, masks, image_end=f"_{_IMAGES}", mask_end=end)
    return MaskedFiles(path, names, pairs.images, pairs.masks, coding, pairs.notices)


def _from_label_ids() -> ValueCoding:
    """-> the coding of label ids; those of no train id and license plates (-1, as 255) have no label."""
    table = np.full(256, BEYOND, np.int32)
    table[: LABEL_IDS[-1] + 1] = table[255] = IGNORE
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return ValueCoding(table, OF_DOWNLOAD)
