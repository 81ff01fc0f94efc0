"""Folders of images: one folder per class, or images without labels."""

import os
from collections.abc import Sequence

from fastmim_jax.data.sources.base import TreeSource, refuse_split
from fastmim_jax.data.sources.listing import holds_images, list_images, top_level
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.data.sources.splits import Division, describe_left_out, divide


def matches(path: str) -> bool:
    """Return whether `path` is a folder."""
    return os.path.isdir(path)


def split_names(path: str) -> tuple[str, ...]:
    """Return which of SPLITS a folder is divided into; () if it is not divided."""
    return tuple(_divide(path).folders)


def open_split(path: str, split: str) -> "FolderSource":
    """Open the images of the folder of a split, or of `path` where it is not divided into splits.

    Raises:
      UserError: no such split, or no images in it.
    """
    division = _divide(path)
    folder = division.find(split)
    if folder is not None:
        return FolderSource(os.path.join(path, folder), describe_left_out(path, division))
    if not division.folders and split == "train":
        return FolderSource(path)
    expected = f"a sub-folder {os.path.join(path, split)} with images, beside its other splits"
    refuse_split(split, f"the image folder {path}", tuple(division.folders), expected)


def _divide(path: str) -> Division:
    top = top_level(path)
    return divide(top.folders, lambda name: holds_images(os.path.join(path, name)), top.images)


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
