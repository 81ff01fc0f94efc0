"""Folders of images: one folder per class, or images without labels."""

import os

from fastmim_jax.data.sources.base import SPLITS, TreeSource, only_splits, refuse_split
from fastmim_jax.data.sources.listing import list_images, subfolders
from fastmim_jax.data.sources.pread import read_file


def matches(path: str) -> bool:
    """Return whether `path` is a folder."""
    return os.path.isdir(path)


def split_names(path: str) -> tuple[str, ...]:
    """Return which of SPLITS a folder is divided into; () if it is not divided."""
    folders = subfolders(path)
    return tuple(name for name in SPLITS if name in folders) if only_splits(folders) else ()


def open_split(path: str, split: str) -> "FolderSource":
    """Open the images of `path/split`, or of `path` where it is not divided into splits.

    Raises:
      UserError: no such split, or no images in it.
    """
    offered = split_names(path)
    if offered and split in offered:
        return FolderSource(os.path.join(path, split))
    if not offered and split == "train":
        return FolderSource(path)
    expected = f"a sub-folder {os.path.join(path, split)} beside its other splits"
    refuse_split(split, f"the image folder {path}", offered, expected)


class FolderSource(TreeSource):
    """Images below a folder, in an order that does not depend on the file system.

    Hidden files and folders are skipped, links followed. The label of an image is the first-level
    folder that it is in; an image right in the folder has label -1.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError: no permission, or no image inside."""
        path = os.path.abspath(path)
        super().__init__(path, list_images(path))

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.name(index))
