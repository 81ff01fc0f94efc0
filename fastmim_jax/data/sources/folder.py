"""Folders of images: one folder per class, or images without labels."""

import os
from collections.abc import Sequence

from fastmim_jax.data.sources.base import TreeSource, refuse_split
from fastmim_jax.data.sources.listing import holds_images, is_work_directory, list_images, top_level
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.data.sources.splits import Division, describe_left_out, divide


def matches(path: str) -> bool:
    """Return whether `path` is a folder."""
    return os.path.isdir(path)


def split_names(path: str) -> tuple[str, ...]:
    """Return which of SPLITS a folder is divided into; () if it is not divided."""
    return tuple(_divide(path)[1].folders)


def open_split(path: str, split: str) -> "FolderSource":
    """Open the images of the folder of a split, or of `path` where it is not divided into splits.

    Raises:
      UserError: no such split, or no images in it.
    """
    root, division = _divide(path)
    folder = division.find(split)
    if folder is not None:
        entered = f"{path}: its only folder with images, {os.path.relpath(root, path)}, is used"
        notices = (entered,) * (root != path) + describe_left_out(root, division)
        return FolderSource(os.path.join(root, folder), notices)
    if not division.folders and split == "train":
        return FolderSource(path)
    expected = f"a sub-folder {os.path.join(root, split)} with images, beside its other splits"
    refuse_split(split, f"the image folder {path}", tuple(division.folders), expected)


def _divide(path: str, levels: int = 3) -> tuple[str, Division]:
    """Return the folder that is divided into splits, `path` or the only one in it, and its division."""
    top = top_level(path)
    division = divide(top.folders, lambda name: holds_images(os.path.join(path, name)), top.images)
    if division.folders or top.images or not levels:
        return path, division
    filled = [name for name in top.folders if holds_images(os.path.join(path, name))]
    if len(filled) == 1 and not is_work_directory(path):
        root, inner = _divide(os.path.join(path, filled[0]), levels - 1)
        if inner.folders:
            return root, inner
    return path, division


class FolderSource(TreeSource):
    """Images below a folder, in an order that does not depend on the file system.

    Hidden files and folders are skipped, links followed. The label of an image is the first-level
    folder that it is in; an image right in the folder has label -1.
    """

    def __init__(self, path: str | os.PathLike, more_notices: Sequence[str] = ()):
        """Raises UserError: no permission, or no image inside."""
        path = os.path.abspath(path)
        super().__init__(path, list_images(path), more_notices)

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.name(index))
