"""A million paths in little memory, cheap to pickle."""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np


class PathTable:
    """Paths in a given order: base names in one block of bytes, each folder once.

    A path takes its base name and 4 bytes, as long as the paths of a folder follow one another. They are
    compressed in a pickle, which a worker process keeps beside them.

    Attributes:
      folders: the distinct folders, in order of their first path, without a "/" at the end.
    """

    def __init__(self, paths: Iterable[bytes]):
        numbers: dict[bytes, int] = {}
        self._starts, self._folder_of_run = array("q"), array("i")  # of runs of paths in one folder
        names, previous = [], None
        for index, path in enumerate(paths):
            folder, _, name = path.rpartition(b"/")
            if folder != previous:
                self._starts.append(index)
                self._folder_of_run.append(numbers.setdefault(folder, len(numbers)))
                previous = folder
            names.append(name)
        self.folders: tuple[bytes, ...] = tuple(numbers)
        self._names = b"".join(names)
        self._packed: bytes | None = None  # the names in a pickle
        self._ends = array("I" if len(self._names) < 2**32 else "Q", accumulate(map(len, names)))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        """Return path `index`, at least 0."""
        folder = self.folders[self.folder_number(index)]
        name = self._names[self._ends[index - 1] if index else 0 : self._ends[index]]
        return folder + b"/" + name if folder else name

    def __getstate__(self) -> dict[str, Any]:
        if self._packed is None:  # compressed once for all workers
            self._packed = zlib.compress(self._names, 1)
        return {**self.__dict__, "_names": b""}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _names=zlib.decompress(state["_packed"]), _packed=None)

    def folder_number(self, index: int) -> int:
        """Return the position in `folders` of the folder of path `index`, at least 0."""
        return self._folder_of_run[bisect_right(self._starts, index) - 1]

    def folder_numbers(self) -> np.ndarray:
        """Return the positions in `folders` of all paths, (n,) int32."""
        lengths = np.diff(np.asarray(self._starts), append=len(self))
        return np.repeat(np.asarray(self._folder_of_run), lengths)


def number_classes(
    names: Sequence[str | None], order: Callable[[set[str]], list[str]] = sorted
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct names in an order, and the number of each, (n,) int32, -1 for None."""
    classes = tuple(order({name for name in names if name is not None}))
    number: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    number[None] = -1
    return classes, np.array([number[name] for name in names], np.int32)


def numeric_order(names: set[str]) -> list[str]:
    """Sort names; as numbers if all are integers."""
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
