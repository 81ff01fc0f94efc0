"""Several data sets as one: `FIRST::SECOND`."""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from fastmim_jax.data.sources.record_rows import RecordRows, read_rows
from fastmim_jax.errors import UserError
from fastmim_jax.paths import absolute_place, place

if TYPE_CHECKING:
    from fastmim_jax.data.records.raw import RawImage
    from fastmim_jax.data.records.yuv import Yuv420
    from fastmim_jax.data.sources import Source

SEPARATOR = "::"
WORDS = ("", "sample")  # that stand for data sets and are no paths


def split_path(path: str | os.PathLike) -> list[str]:
    """Return the paths and addresses that are joined by "::" in a path, each as `place` resolves it.

    Raises:
      UserError: an empty path, the same one twice, or one that `place` refuses.
    """
    path = os.fspath(path)
    paths = [path] if os.path.exists(path) else path.split(SEPARATOR)
    if len(paths) > 1 and not all(paths):
        raise UserError(f"{path} has an empty path before or after '::'; expected FIRST::SECOND.")
    paths = [_resolve(part, place) for part in paths]
    if len(set(paths)) < len(paths):
        raise UserError(f"{path} names a data set twice; expected different ones between '::'.")
    return paths


def absolute_path(path: str) -> str:
    """Return a path of data sets as every working directory can use it; raises as `split_path`."""
    return SEPARATOR.join(_resolve(part, absolute_place) for part in split_path(path))


def _resolve(path: str, resolve: Callable[[str], str]) -> str:
    """-> one path between "::", resolved; also in tfds:NAME:DATA_DIR."""
    if path in WORDS:
        return path
    if not path.startswith("tfds:"):
        return resolve(path)
    name, separator, folder = path.removeprefix("tfds:").partition(":")
    if not separator:
        return f"tfds:{resolve(name) if os.path.isdir(os.path.expanduser(name)) else name}"
    return f"tfds:{name}:{resolve(folder)}"


class JoinedSource:
    """The records of several sources, one source after the other; classes are merged by name.

    Attributes:
      classes: those of the sources, if all have the same; else the sorted union.
    """

    def __init__(self, sources: Sequence["Source"]):
        self.sources = tuple(sources)
        self._ends = list(accumulate(map(len, sources)))
        labelled = [tuple(source.classes) for source in sources if len(source.classes)]
        same = len(set(labelled)) == 1
        self.classes = (
            labelled[0] if same else tuple(sorted({name for names in labelled for name in names}))
        )
        number = {name: index for index, name in enumerate(self.classes)}
        self._labels = [np.array([*(number[name] for name in s.classes), -1], np.int32) for s in sources]
        self.notices = tuple(notice for source in sources for notice in source.notices)

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        """-> the position of a record's source, and its index there."""
        index = range(len(self))[index]
        which = bisect_right(self._ends, index)
        return which, index - (self._ends[which - 1] if which else 0)

    def __getitem__(self, index: int) -> "bytes | np.ndarray | Yuv420 | RawImage":
        which, inner = self._locate(index)
        return self.sources[which][inner]

    def rows(self, index: int) -> RecordRows | None:
        """Return an image whose rows can be read by themselves, or None; see `RecordsSource.rows`."""
        which, inner = self._locate(index)
        return read_rows(self.sources[which], inner)

    def name(self, index: int) -> str:
        which, inner = self._locate(index)
        return self.sources[which].name(inner)

    def label(self, index: int) -> int:
        which, inner = self._locate(index)
        return int(self._labels[which][self.sources[which].label(inner)])

    def all_labels(self) -> np.ndarray | None:
        """Return the labels of all records; None where a source reads them with its records."""
        labels = [getattr(source, "all_labels", lambda: None)() for source in self.sources]
        if any(x is None for x in labels):
            return None
        return np.concatenate([numbers[x] for numbers, x in zip(self._labels, labels, strict=True)])

    def label_problem(self) -> str | None:
        for source in self.sources:
            if len(source.classes) != 1:
                problem = source.label_problem()
            else:  # a single class is none, as long as other sources have others
                without = next((i for i in range(len(source)) if source.label(i) < 0), None)
                problem = None if without is None else f"{source.name(without)} has no label."
            if problem is not None:
                return problem
        if len(self.classes) == 1:
            return f"All data sets have the same single class, {self.classes[0]}; expected at least 2."
        return None

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"JoinedSource({', '.join(map(repr, self.sources))}: {len(self):,} images{classes})"
