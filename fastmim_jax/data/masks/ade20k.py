"""ADE20K as ADEChallengeData2016: 150 classes."""

import os

import numpy as np

from fastmim_jax.data.masks.base import BEYOND, IGNORE, MaskedFiles, Request, number_names, own_classes
from fastmim_jax.data.masks.coding import OF_DOWNLOAD, ValueCoding
from fastmim_jax.data.masks.pairs import pair_folders
from fastmim_jax.data.masks.splits import choose_folder
from fastmim_jax.errors import UserError

CLASSES = 150
_ROOT = "ADEChallengeData2016"
_NAMES = "objectInfo150.txt"
FOLDERS = {"train": "training", "val": "validation"}
TFDS = (
    "{path} holds the annotations of scene_parse150 in TFDS: RGB images of 100 classes and instances, of "
    "the Places instance challenge, not ADE20K's 150 classes; expected the folder ADEChallengeData2016 of "
    "ADEChallengeData2016.zip (sceneparsing.csail.mit.edu): type its path"
)


def matches(path: str) -> bool:
    """Return whether a path is ADE20K, or TFDS's scene_parse150, which `open_split` refuses."""
    return _is_tfds(path) or _root(path) is not None


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits that are there."""
    root = _root(path) or path
    return tuple(
        split for split, name in FOLDERS.items() if os.path.isdir(os.path.join(root, "annotations", name))
    )


def open_split(path: str, request: Request) -> MaskedFiles:
    """Open a split: 0 in its masks is no label, 1 to 150 are the classes 0 to 149.

    Raises:
      UserError: TFDS's scene_parse150, no such split, or masks that cannot be used.
    """
    if _is_tfds(path):
        raise UserError(TFDS.format(path=path))
    root = _root(path) or path
    folder = choose_folder(path, request.split, {x: FOLDERS[x] for x in split_names(path)})
    pairs = pair_folders(os.path.join(root, "images", folder), os.path.join(root, "annotations", folder))
    table = np.arange(-1, CLASSES, dtype=np.int32)
    table[0] = IGNORE
    table = np.r_[table, np.full(256 - len(table), BEYOND, np.int32)].astype(np.int32)
    names = own_classes(root, _read_names(root), request.classes)
    coding = ValueCoding(table, OF_DOWNLOAD)
    return MaskedFiles(root, names, pairs.images, pairs.masks, coding, pairs.notices)


def _is_tfds(path: str) -> bool:
    return _root(path) is None and "scene_parse150" in path.split(
        ":" if path.startswith("tfds:") else os.sep
    )


def _root(path: str) -> str | None:
    for root in (path, os.path.join(path, _ROOT)):
        folders = [os.path.join(root, kind, FOLDERS["train"]) for kind in ("images", "annotations")]
        if all(map(os.path.isdir, folders)):
            return root
    return None


def _read_names(root: str) -> tuple[str, ...]:
    """-> the first name of each class in objectInfo150.txt, or numbers where the file is missing."""
    try:
        with open(os.path.join(root, _NAMES), encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
    except OSError:
        return number_names(CLASSES)
    numbered = {int(row[0]): row[-1].split(",")[0].strip() for row in rows if row[0].strip().isdecimal()}
    if sorted(numbered) != list(range(1, CLASSES + 1)):
        return number_names(CLASSES)
    return tuple(numbered[index] for index in range(1, CLASSES + 1))
