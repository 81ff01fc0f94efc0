"""Folders of images: one folder per class, or images without labels."""

import os
from collections import Counter

import numpy as np

from fastmim_jax.data.sources.image_file import EXTENSIONS
from fastmim_jax.data.sources.listing import extension, list_folder, subfolders
from fastmim_jax.errors import UserError

SPLITS = ("train", "val", "valid", "validation", "test")


def matches(path: str) -> bool:
    """Return whether `path` is a folder."""
    return os.path.isdir(path)


def split_names(path: str) -> tuple[str, ...]:
    """Return which of SPLITS a folder is divided into; () if it is not divided."""
    folders = subfolders(path)
    return tuple(name for name in SPLITS if name in folders) if _only_splits(folders) else ()


def open_split(path: str, split: str) -> "FolderSource":
    """Open the images of `path/split`, or of `path` where it is not divided into splits.

    Raises:
      UserError: no such split, or no images in it.
    """
    folders = subfolders(path)
    if _only_splits(folders):
        if split in folders:
            return FolderSource(os.path.join(path, split))
        seen = f"holds {', '.join(folders)}"
    elif split == "train":
        return FolderSource(path)
    else:
        seen = "is not divided into splits"
    raise UserError(
        f"The split {split!r} was asked for, but the image folder {path} {seen}; expected a "
        f"sub-folder {os.path.join(path, split)} beside its other splits."
    )


class FolderSource:
    """Images below a folder, in an order that does not depend on the file system.

    Hidden files and folders are skipped, links followed. The label of an image is the first-level
    folder that it is in; an image right in the folder has label -1.

    Attributes:
      classes: sorted names of the first-level folders that hold images.
      ignored: number of visible files whose extension is not one of EXTENSIONS.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError: no permission, or no image inside."""
        self.path = os.path.abspath(path)
        files, others = _scan(self.path)
        if not files:
            raise UserError(_no_images(self.path, others))
        folders = [name.partition("/")[0] if "/" in name else None for name in files]
        self.classes = tuple(sorted({folder for folder in folders if folder is not None}))
        number = {name: i for i, name in enumerate(self.classes)}
        self.ignored = others.total()
        self._labels = np.array([-1 if folder is None else number[folder] for folder in folders], np.int32)
        # One block of bytes: a million names reach the workers in milliseconds, not seconds.
        encoded = [os.fsencode(name) for name in files]
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> bytes:
        with open(self.name(index), "rb") as file:
            return file.read()

    def name(self, index: int) -> str:
        index = range(len(self))[index]
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.path.join(self.path, os.fsdecode(name))

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def label_problem(self) -> str | None:
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
            return f"{self.path} holds a single class folder, {self.classes[0]}; {expected}, at least 2."
        return None

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"FolderSource({self.path!r}, {len(self):,} images{classes})"


def _scan(root: str) -> tuple[list[str], Counter[str]]:
    """-> sorted image paths relative to root, with '/', and a Counter of the other extensions."""
    images: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        resolved = os.path.realpath(os.path.join(root, folder))
        if resolved in visited:  # a link to a folder above, or to one that was listed already
            continue
        visited.add(resolved)
        for entry in list_folder(os.path.join(root, folder)):
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind = extension(entry.name)
            if entry.is_dir():
                pending.append(name)
            elif kind in EXTENSIONS:
                images.append(name)
            else:
                others[kind] += 1
    return sorted(images), others


def _no_images(path: str, others: Counter[str]) -> str:
    expected = f"expected images below it ({', '.join(EXTENSIONS)})"
    if not others:
        return f"The folder {path} is empty; {expected}."
    kinds = ", ".join(
        f"{count:,} {'.' + kind if kind else 'without extension'}" for kind, count in others.most_common(5)
    )
    files = f"{others.total():,} other file{'s' if others.total() > 1 else ''} ({kinds})"
    return f"The folder {path} holds no images, but {files}; {expected}."


def _only_splits(folders: list[str]) -> bool:
    return bool(folders) and set(folders) <= set(SPLITS)
