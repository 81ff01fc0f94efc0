"""Where records come from: an image folder or file, a TFDS data set, or the bundled sample.

A source is random-access and can be pickled for worker processes. It has `len(source)`;
`source[i]`, the encoded bytes of record i or its decoded (H, W, C) array; `source.name(i)`, what
to call it in a message; `source.label(i)`, -1 where there is none; `source.classes`, names; and
`source.label_problem()`, see `labelled`.
"""

import os
import re
from collections import Counter

import numpy as np

from fastmim_jax.data.sources import sample, tfds
from fastmim_jax.data.sources.sample import SampleSource
from fastmim_jax.data.sources.tfds import TFDSSource
from fastmim_jax.errors import UserError

__all__ = [
    "EXTENSIONS",
    "FileSource",
    "FolderSource",
    "SampleSource",
    "TFDSSource",
    "evaluation_split",
    "labelled",
    "open_source",
    "split_names",
]

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "npy")
_SPLIT_NAMES = ("train", "val", "valid", "validation", "test")
_EVALUATED = _SPLIT_NAMES[1:]  # the first of these that there is
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def open_source(path, split="train"):
    """Open what `path` names.

    Args:
      path: 'sample'; 'tfds:NAME' or 'tfds:NAME:DATA_DIR'; an image file; or a directory: a prepared
        TFDS data set (at its version or one level above), or an image folder. An image folder that
        holds nothing but folders named like splits (train, val, test ...) is entered at `split`.
      split: a split of the data set.

    Raises:
      UserError: nothing usable there.
    """
    kind, where = _locate(path)
    if kind is FolderSource:
        return FolderSource(_split_folder(where["path"], split))
    if kind is not FileSource:
        return kind(**where, split=split)
    if split != "train":
        raise UserError(
            f"The split {split!r} was asked for, but {where['path']} is a single image; expected a "
            "folder of images that is divided into splits."
        )
    return FileSource(where["path"])


def split_names(path):
    """Names of the splits that `path` (see `open_source`) offers, in its own order; () if undivided.

    Raises:
      UserError: nothing there, or a TFDS data set that cannot be opened.
    """
    kind, where = _locate(path)
    if kind is SampleSource:
        return tuple(sample.COUNTS)
    if kind is TFDSSource:
        return tfds.split_names(**where)
    if kind is FolderSource:
        folders = _visible_folders(where["path"])
        return tuple(name for name in _SPLIT_NAMES if name in folders) if _divided(folders) else ()
    return ()


def evaluation_split(path):
    """The split of `path` to evaluate on, the validation split before the test split, or None.

    Raises:
      UserError: see `split_names`.
    """
    offered = split_names(path)
    return next((name for name in _EVALUATED if name in offered), None)


def labelled(source):
    """The source itself, if its records have labels and there are at least two classes.

    No image is decoded. Of a TFDS data set only the first record is looked at: in a test split whose
    labels were kept back, all are -1.

    Raises:
      UserError: it cannot be used where labels are needed.
    """
    problem = source.label_problem()
    if problem is not None:
        raise UserError(problem)
    return source


def _locate(path):
    """-> (class of the source that `path` names, where it is as arguments of the class)."""
    path = os.fspath(path)
    if path == "sample":
        return SampleSource, {}
    if path.startswith("tfds:"):
        name, _, data_dir = path.removeprefix("tfds:").partition(":")
        return TFDSSource, {"where": name, "data_dir": data_dir or None}
    path = os.path.expanduser(path)
    if os.path.isfile(path) and _extension(path) in EXTENSIONS:
        return FileSource, {"path": path}
    _check_folder(path)
    prepared = _tfds_directory(path)
    return (TFDSSource, {"where": prepared}) if prepared else (FolderSource, {"path": path})


class FileSource:
    """One image file, without a label."""

    classes = ()

    def __init__(self, path):
        self.path = os.path.abspath(path)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        with open(self.name(index), "rb") as file:
            return file.read()

    def name(self, index):
        """The file's path."""
        return (self.path,)[index]

    def label(self, index):
        return (-1,)[index]

    def label_problem(self):
        return f"{self.path} is a single image; expected a folder with one folder per class."

    def __repr__(self):
        return f"FileSource({self.path!r})"


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

    def label_problem(self):
        """One sentence on why it cannot be used where labels are needed, or None."""
        expected = f"expected one folder per class: {os.path.join(self.path, 'CLASS', 'image.jpg')}"
        if not self.classes:
            count = f"{len(self):,} image{'s' if len(self) > 1 else ''}"
            return f"{self.path} holds {count} but no class folders; {expected}."
        outside = np.flatnonzero(self._labels < 0)
        if len(outside):
            return (
                f"{self.path} holds images outside of its class folders ({len(outside):,} of "
                f"{len(self):,}, such as {self.name(outside[0])}); expected each in the folder of its "
                "class: move them there or remove them."
            )
        if len(self.classes) == 1:
            return f"{self.path} holds a single class folder, {self.classes[0]}; {expected}, two at least."
        return None

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
            extension = _extension(entry.name)
            if entry.is_dir():
                todo.append(name)
            elif extension in EXTENSIONS:
                files.append(name)
            else:
                others[extension] += 1
    return sorted(files), others


def _extension(name):
    return os.path.splitext(name)[1].lower().removeprefix(".")


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


def _divided(folders):
    return bool(folders) and set(folders) <= set(_SPLIT_NAMES)


def _split_folder(path, split):
    """path/split where path holds only splits; path itself where it is the training set."""
    folders = _visible_folders(path)
    if _divided(folders):
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
