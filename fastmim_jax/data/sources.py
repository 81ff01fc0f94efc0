"""Where records come from: an image folder, a TFDS data set, or the bundled sample.

A source is random-access and can be pickled for worker processes. It has `len(source)`;
`source[i]`, the encoded bytes of record i or its decoded (H, W, C) array; `source.name(i)`, what
to call it in a message; `source.label(i)`, -1 where there is none; and `source.classes`, names.
"""

import os
import re
from collections import Counter

import numpy as np

from fastmim_jax.data.sample import SampleSource
from fastmim_jax.data.tfds_source import TFDSSource
from fastmim_jax.errors import UserError

__all__ = ["EXTENSIONS", "FolderSource", "SampleSource", "TFDSSource", "open_source"]

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "npy")
_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def open_source(path, split="train"):
    """Open what `path` names.

    Args:
      path: 'sample'; 'tfds:NAME' or 'tfds:NAME:DATA_DIR'; or a directory: a prepared TFDS data set
        (at its version or one level above), or an image folder. An image folder that holds nothing
        but folders named like splits (train, val, test ...) is entered at `split`.
      split: a split of the data set.

    Raises:
      UserError: nothing usable there.
    """
    path = os.fspath(path)
    if path == "sample":
        return SampleSource(split)
    if path.startswith("tfds:"):
        name, _, data_dir = path.removeprefix("tfds:").partition(":")
        return TFDSSource(name, split, data_dir or None)
    path = os.path.expanduser(path)
    _check_folder(path)
    prepared = _tfds_directory(path)
    if prepared:
        return TFDSSource(prepared, split)
    return FolderSource(_split_folder(path, split))


class FolderSource:
    """Image files below a folder, in an order that does not depend on the file system.

    Hidden files and folders are skipped, links followed. Images inside sub-folders are labelled by
    the first one; images right in the folder have label -1.

    Attributes:
      classes: sorted names of the first-level folders that hold images.
      ignored: number of visible files that are no images by their extension.
    """

    def __init__(self, path):
        """Raises UserError: no such folder, no permission, no image inside."""
        self.path = os.path.abspath(path)
        _check_folder(self.path)
        files, others = _scan(self.path)
        if not files:
            raise UserError(_nothing_found(self.path, others))
        firsts = [name.partition("/")[0] if "/" in name else None for name in files]
        self.classes = tuple(sorted({first for first in firsts if first is not None}))
        number = {name: i for i, name in enumerate(self.classes)}
        self.ignored = sum(others.values())
        self._labels = np.array([number.get(first, -1) for first in firsts], np.int32)
        # One block of bytes: a million names reach the workers in milliseconds, not seconds.
        encoded = [os.fsencode(name) for name in files]
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        with open(self.name(index), "rb") as file:
            return file.read()

    def name(self, index):
        """The file's path."""
        index = range(len(self))[index]
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.path.join(self.path, os.fsdecode(name))

    def label(self, index):
        return int(self._labels[index])

    def __repr__(self):
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"FolderSource({self.path!r}, {len(self):,} images{classes})"


def _scan(root):
    """-> sorted image paths relative to root, with '/', and a Counter of the other extensions."""
    files, others, entered = [], Counter(), set()
    todo = [""]
    while todo:
        folder = todo.pop()
        where = os.path.realpath(os.path.join(root, folder))
        if where in entered:  # a link back up
            continue
        entered.add(where)
        for entry in _listing(os.path.join(root, folder)):
            if entry.name.startswith("."):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            extension = os.path.splitext(entry.name)[1].lower().removeprefix(".")
            if entry.is_dir():
                todo.append(name)
            elif extension in EXTENSIONS:
                files.append(name)
            else:
                others[extension] += 1
    return sorted(files), others


def _listing(folder):
    try:
        with os.scandir(folder) as entries:
            # Sorted, so that of two links to one folder the same one counts on every machine.
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except PermissionError:
        raise UserError(
            f"No permission to read the folder {folder}; expected to list its images: "
            f"`chmod -R u+rX {folder}` or run as its owner."
        ) from None


def _check_folder(path):
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        seen = f"{path} is a file"
    else:
        parent = os.path.dirname(os.path.abspath(path))
        missing = "" if os.path.isdir(parent) else f" (nor its parent {parent})"
        seen = f"The folder {path} does not exist{missing}"
    raise UserError(
        f"{seen}; expected a folder of images, a TFDS data set (`tfds:NAME` or its directory), "
        "or `sample`, the bundled photos."
    )


def _nothing_found(path, others):
    expected = f"expected images below it ({', '.join(EXTENSIONS)})"
    if not others:
        return f"The folder {path} is empty; {expected}."
    seen = ", ".join(
        f"{count:,} {'.' + kind if kind else 'without extension'}" for kind, count in others.most_common(5)
    )
    count = f"{sum(others.values()):,} other files ({seen})"
    return f"The folder {path} holds no images, but {count}; {expected}."


def _visible_folders(path):
    return sorted(e.name for e in _listing(path) if e.is_dir() and not e.name.startswith("."))


def _tfds_directory(path):
    """The directory that holds dataset_info.json: path, its only version, or None."""

    def prepared(folder):
        return os.path.isfile(os.path.join(folder, "dataset_info.json"))

    if prepared(path):
        return path
    versions = [name for name in _visible_folders(path) if _VERSION.fullmatch(name)]
    versions = [name for name in versions if prepared(os.path.join(path, name))]
    if len(versions) > 1:
        raise UserError(
            f"{path} holds {len(versions)} versions of a TFDS data set ({', '.join(versions)}); "
            f"expected one, for example {os.path.join(path, versions[-1])}."
        )
    return os.path.join(path, versions[0]) if versions else None


def _split_folder(path, split):
    """path/split where path holds only splits; path itself where it is the training set."""
    folders = _visible_folders(path)
    if folders and set(folders) <= _SPLIT_NAMES:
        if split in folders:
            return os.path.join(path, split)
        seen = f"holds {', '.join(folders)}"
    elif split == "train":
        return path
    else:
        seen = "is not divided into splits"
    raise UserError(
        f"The split {split!r} was asked for, but the image folder {path} {seen}; expected a "
        f"sub-folder {os.path.join(path, split)} beside its other splits."
    )
