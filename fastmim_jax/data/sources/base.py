"""The parts that sources share: splits, labels per record, and images in a tree of folders."""

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from fastmim_jax.data.sources.listing import Listing, no_images, notices
from fastmim_jax.data.sources.paths import number_classes
from fastmim_jax.data.sources.pread import FileStamp
from fastmim_jax.errors import UserError


def refuse_split(split: str, described: str, offered: Sequence[str], expected: str) -> NoReturn:
    """Raise the UserError for a split that a data set lacks; offered: the names of its splits."""
    seen = f"holds {', '.join(offered)}" if offered else "is not divided into splits"
    raise UserError(f"The split {split!r} was asked for, but {described} {seen}; expected {expected}.")


def refuse_file(file: FileStamp, kind: str, error: Exception, expected: str = "a complete one") -> NoReturn:
    """Raise the UserError for a file that cannot be read as a file of a kind."""
    reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
    seen = f"cannot be read as a file of kind {kind} ({reason})" if file.size else "is empty"
    raise UserError(f"{file.path} {seen}; expected {expected}, copied again if it is cut.") from error


def plain_name(name: str) -> str:
    """Return the name of a class without what people write in many ways: case, spaces, accents' form."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def describe_alike(path: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on classes that may be one, in a tuple; () if there are none."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(plain_name(name), []).append(name)
    groups = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if not groups:
        return ()
    shown = "; ".join(groups[:3]) + ("; ..." if len(groups) > 3 else "")
    return (f"{path}: classes of their own, though their names differ in case or spaces alone: {shown}",)


class LabelledSource:
    """Records with a label each, in an array.

    Attributes:
      path: of the data set.
      classes: names of the classes, () where no record has a label.
      notices: sentences on files and records that are left out.
      labels: (n,) int32, -1 for none.
    """

    expected_labels = "expected a label for each record"

    def __init__(self, path: str, classes: Sequence[str], labels: np.ndarray, notices: Sequence[str] = ()):
        self.path, self.classes, self.labels = path, tuple(classes), labels
        self.notices = tuple(notices)

    def __len__(self) -> int:
        return len(self.labels)

    def position(self, index: int) -> int:
        """Return `index` from 0 on; negative and too large ones as lists treat them."""
        return range(len(self))[index]

    def name(self, index: int) -> str:
        return f"{self.path}[{self.position(index)}]"

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def all_labels(self) -> np.ndarray:
        """Return the labels of all records."""
        return self.labels

    def label_problem(self) -> str | None:
        without = np.flatnonzero(self.labels < 0)
        if not self.classes:
            return f"{self.path} has no labels; {self.expected_labels}."
        if len(without):
            return (
                f"{len(without):,} of {len(self):,} records of {self.path} have no label, such as "
                f"{self.name(int(without[0]))}; {self.expected_labels}."
            )
        if len(self.classes) == 1:
            return f"{self.path} has a single class, {self.classes[0]}; expected at least 2."
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {count_records(self)})"


class TreeSource:
    """Images in a tree of folders; the label of an image is the first-level folder that it is in.

    Attributes:
      path: of the tree.
      classes: sorted names of the first-level folders that hold images.
      notices: sentences on files and folders that are left out.
    """

    def __init__(self, path: str, listing: Listing, more_notices: Sequence[str] = ()):
        """Raises UserError: no image."""
        if not len(listing.paths):
            raise UserError(no_images(path, listing))
        self.path, self.paths = path, listing.paths
        self.notices = (*more_notices, *notices(path, listing))
        first = [os.fsdecode(folder).partition("/")[0] or None for folder in listing.paths.folders]
        self.classes, self._label_of_folder = number_classes(first)
        self.notices += describe_alike(path, self.classes)

    def __len__(self) -> int:
        return len(self.paths)

    def position(self, index: int) -> int:
        """Return `index` from 0 on; negative and too large ones as lists treat them."""
        return range(len(self))[index]

    def name(self, index: int) -> str:
        return os.path.join(self.path, os.fsdecode(self.paths[self.position(index)]))

    def label(self, index: int) -> int:
        return int(self._label_of_folder[self.paths.folder_number(self.position(index))])

    def all_labels(self) -> np.ndarray:
        """Return the labels of all records."""
        return self._label_of_folder[self.paths.folder_numbers()]

    def label_problem(self) -> str | None:
        expected = f"expected one folder per class: {os.path.join(self.path, 'CLASS', 'image.jpg')}"
        if not self.classes:
            count = f"{len(self):,} image{'s' if len(self) > 1 else ''}"
            return f"{self.path} holds {count} but no class folders; {expected}."
        outside = np.flatnonzero(self.all_labels() < 0)
        if len(outside):
            return (
                f"{self.path} holds images outside of its class folders ({len(outside):,} of "
                f"{len(self):,}, such as {self.name(int(outside[0]))}); expected each in the folder of its "
                "class: move them there or remove them."
            )
        if len(self.classes) == 1:
            return f"{self.path} holds a single class folder, {self.classes[0]}; {expected}, at least 2."
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {count_records(self)})"


def count_records(source: LabelledSource | TreeSource) -> str:
    """Return the numbers of images and classes: "5 images, 2 classes"."""
    count = len(source.classes)
    classes = f", {count:,} class{'es' * (count != 1)}" if count else ""
    return f"{len(source):,} image{'s' * (len(source) != 1)}{classes}"
