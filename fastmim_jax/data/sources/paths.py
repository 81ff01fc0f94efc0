"""A million paths in little memory, cheap to pickle."""

import itertools
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter

import numpy as np


class PathTable:
    """Paths in a given order: folders once, and of the names in a folder the bytes in which they differ.

    "n01440764/n01440764_10026.JPEG" among others of its folder takes "10026" and 4 bytes, in this process
    and in the pickle that a worker process keeps.

    Attributes:
      folders: the distinct folders, in order of their first path, without a "/" at the end.
    """

    def __init__(self, paths: Iterable[bytes]):
        # Of runs of paths in one folder: the first path, the folder, and what the names have in common.
        self._starts, self._folder_of_run, self._affix_of_run = array("q"), array("i"), array("i")
        folders: dict[bytes, int] = {}
        affixes: dict[tuple[bytes, bytes], int] = {}
        middles: list[bytes] = []
        for folder, run in itertools.groupby(_divided(paths), key=itemgetter(0)):
            names = [name for _, name in run]
            prefix, suffix = _affixes(names)
            self._starts.append(len(middles))
            self._folder_of_run.append(folders.setdefault(folder, len(folders)))
            self._affix_of_run.append(affixes.setdefault((prefix, suffix), len(affixes)))
            middles += [name[len(prefix) : len(name) - len(suffix)] for name in names]
        self.folders, self._affixes = tuple(folders), tuple(affixes)
        self._middles = b"".join(middles)
        self._ends = array(
            "I" if len(self._middles) < 2**32 else "Q", itertools.accumulate(map(len, middles))
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        """Return path `index`, at least 0."""
        run = bisect_right(self._starts, index) - 1
        folder, (prefix, suffix) = (
            self.folders[self._folder_of_run[run]],
            self._affixes[self._affix_of_run[run]],
        )
        middle = self._middles[self._ends[index - 1] if index else 0 : self._ends[index]]
        return (folder + b"/" if folder else b"") + prefix + middle + suffix

    def folder_number(self, index: int) -> int:
        """Return the position in `folders` of the folder of path `index`, at least 0."""
        return self._folder_of_run[bisect_right(self._starts, index) - 1]

    def folder_numbers(self) -> np.ndarray:
        """Return the positions in `folders` of all paths, (n,) int32."""
        lengths = np.diff(np.asarray(self._starts), append=len(self))
        return np.repeat(np.asarray(self._folder_of_run), lengths)


def _divided(paths: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (folder, name) of paths."""
    for path in paths:
        folder, _, name = path.rpartition(b"/")
        yield folder, name


def _affixes(names: Sequence[bytes]) -> tuple[bytes, bytes]:
    """-> the prefix, and the suffix from a dot on, that all of several names have."""
    if len(names) < 2:
        return b"", b""
    prefix = names[0][: len(os.path.commonprefix([min(names), max(names)]))]
    rest = [name[len(prefix) :] for name in names]
    dot = rest[0].rfind(b".")
    suffix = rest[0][dot:] if dot >= 0 else b""
    return prefix, suffix if all(name.endswith(suffix) for name in rest) else b""


def compact(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return integers from 0 on as uint32 if they fit, else as int64."""
    array = np.asarray(numbers, np.int64)
    return array.astype(np.uint32) if array.max(initial=0) < 2**32 else array


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


def relative_name(name: str, root: str) -> str:
    """Return the name of a record relative to its data set, wherever that lies.

    Args:
      name: of the record, such as its path.
      root: path of the data set, or "".
    """
    for start in (root, os.path.dirname(root)) if root else ():
        if start and name.startswith(start):
            return name[len(start) :]
    return "/".join(name.split("/")[-2:]) if name.startswith("/") else name
