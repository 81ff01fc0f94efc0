"""Text files of paths: one image per line, optionally with a tab and the name of its class."""

import os
from collections import Counter

from fastmim_jax.data.sources.base import LabelledSource
from fastmim_jax.data.sources.listing import count_kinds, extension, is_image
from fastmim_jax.data.sources.paths import PathTable, number_classes
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.data.sources.skipped import NO_FILE, why_skipped
from fastmim_jax.errors import UserError
from fastmim_jax.paths import to_text

_SHOWN = 5  # lines in a message


def matches(path: str) -> bool:
    """Return whether `path` is a text file by its extension."""
    return os.path.isfile(path) and extension(path) == "txt"


def split_names(path: str) -> tuple[str, ...]:
    """Return (): a list is not divided into splits."""
    del path
    return ()


def open_split(path: str, split: str) -> "ListSource":
    """Open the images of a list; see `ListSource` for other errors.

    Raises:
      UserError: a split other than "train".
    """
    if split != "train":
        raise UserError(
            f"The split {split!r} was asked for, but {path} is a list of images; expected a list for each "
            "split, such as --config.data.eval_path=val.txt."
        )
    return ListSource(path)


class ListSource(LabelledSource):
    """The images of a text file in its order; paths are relative to the folder of the file.

    Blank lines and comments ("#") are skipped; `notices` names the lines without a file to read.
    """

    expected_labels = "expected a tab and the name of the class after each path"

    def __init__(self, path: str | os.PathLike):
        """Raises UserError: no line names an image that exists."""
        path = os.path.abspath(path)
        self._folder = os.path.dirname(path)
        images, names, missing, others = [], [], [], Counter[str]()
        for number, line in _lines(path):
            file, _, name = line.partition(b"\t")
            kind = extension(os.fsdecode(file))
            why = why_skipped(self._folder, os.fsdecode(file))
            if why:
                missing.append(
                    (number, to_text(os.fsdecode(file)) + (f": {why}" if why != NO_FILE else ""))
                )
            elif not is_image(kind):
                others[kind] += 1
            else:
                images.append(file)
                names.append(os.fsdecode(name.strip()) or None)
        if not images:
            raise UserError(_no_images(path, self._folder, missing, others))
        self._paths = PathTable(images)
        super().__init__(path, *number_classes(names), _notices(path, len(images), missing, others))

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.name(index))

    def name(self, index: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._paths[self.position(index)]))


def _lines(path: str) -> list[tuple[int, bytes]]:
    """-> [(number from 1 on, line)] without blank lines and comments."""
    with open(path, "rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf")
    lines = [(number, line.rstrip(b"\r")) for number, line in enumerate(content.split(b"\n"), 1)]
    return [(number, line) for number, line in lines if line.strip() and not line.startswith(b"#")]


def _notices(path: str, images: int, missing: list[tuple[int, str]], others: Counter[str]) -> list[str]:
    sentences = []
    if missing:
        total = images + len(missing) + others.total()
        shown = ", ".join(f"line {number} ({file})" for number, file in missing[:_SHOWN])
        more = ", ..." * (len(missing) > _SHOWN)
        sentences.append(f"{path}: {len(missing):,} of {total:,} paths are no files: {shown}{more}")
    if others:
        count = f"{others.total():,} other file{'s' * (others.total() > 1)}"
        sentences.append(f"{path}: {count} ignored ({count_kinds(others)})")
    return sentences


def _no_images(path: str, folder: str, missing: list[tuple[int, str]], others: Counter[str]) -> str:
    expected = f"expected one path of an image per line, relative to {folder}"
    if missing:
        number, file = missing[0]
        seen = f"none of its {len(missing):,} paths is a file, such as {file!r} in line {number}"
        return f"{path}: {seen}; {expected}."
    if others:
        return f"{path} names no images, but {count_kinds(others)} files; {expected}."
    return f"{path} holds no paths; {expected}."
