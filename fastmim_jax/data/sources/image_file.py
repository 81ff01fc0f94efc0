"""A single image file."""

import os

from fastmim_jax.data.sources.listing import extension, is_image
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.errors import UserError


def matches(path: str) -> bool:
    """Return whether `path` is an image file by its extension."""
    return os.path.isfile(path) and is_image(extension(path))


def split_names(path: str) -> tuple[str, ...]:
    """Return (): a file is not divided into splits."""
    del path
    return ()


def open_split(path: str, split: str) -> "FileSource":
    """Open an image file.

    Raises:
      UserError: a split other than "train".
    """
    if split != "train":
        raise UserError(
            f"The split {split!r} was asked for, but {path} is a single image; expected a "
            "folder of images that is divided into splits."
        )
    return FileSource(path)


class FileSource:
    """One image file, without a label."""

    classes = ()
    notices = ()

    def __init__(self, path: str | os.PathLike):
        self.path = os.path.abspath(path)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.name(index))

    def name(self, index: int) -> str:
        return (self.path,)[index]

    def label(self, index: int) -> int:
        return (-1,)[index]

    def label_problem(self) -> str:
        return f"{self.path} is a single image; expected a folder with one folder per class."

    def __repr__(self) -> str:
        return f"FileSource({self.path!r})"
