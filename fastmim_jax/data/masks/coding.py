"""From the values of a label image to classes."""

import dataclasses

import numpy as np

from fastmim_jax.data.masks.base import BEYOND, IGNORE
from fastmim_jax.data.masks.problems import MaskError

_SHOWN = 5  # values or colours of a file
# Kinds of problems: with values beyond the classes, and with colours.
OF_FOLDER = ("value", "no legend")
OF_DOWNLOAD = ("foreign value", "foreign colour")  # of a data set with classes and files of its own


@dataclasses.dataclass(frozen=True, eq=False)
class ValueCoding:
    """Classes by value.

    table: (n,) int32, value -> class, IGNORE or BEYOND; larger values are beyond the classes. Colours whose
    channels are equal count as gray values.
    problems: OF_FOLDER or OF_DOWNLOAD.
    """

    table: np.ndarray
    problems: tuple[str, str] = OF_FOLDER

    def __call__(self, values: np.ndarray, path: str) -> np.ndarray:
        """Return (H, W) int32 classes of the values of a file; raises MaskError."""
        if values.ndim == 3:
            if (values[..., 1:] != values[..., :1]).any():
                color = next(iter(np.unique(values.reshape(-1, 3), axis=0)[-1:]))
                raise MaskError(self.problems[1], path, f"such as {' '.join(map(str, color))}")
            values = values[..., 0]
        inside = (values >= 0) & (values < len(self.table))
        classes = np.where(inside, self.table[np.where(inside, values, 0)], BEYOND)
        if (classes == BEYOND).any():
            beyond = np.unique(values[classes == BEYOND])
            shown = ", ".join(map(str, beyond[:_SHOWN])) + ", ..." * (len(beyond) > _SHOWN)
            highest = np.flatnonzero(self.table >= 0).max(initial=0)
            raise MaskError(self.problems[0], path, f"{shown}; expected at most {highest}")
        return classes


def values_from_zero(
    classes: int, ignored: tuple[int, ...] = (255, 65535), problems: tuple[str, str] = OF_FOLDER
) -> ValueCoding:
    """Return the coding whose values are the classes themselves; an ignored value that is a class stays."""
    table = np.full(max((classes, *(value + 1 for value in ignored))), BEYOND, np.int32)
    table[list(ignored)] = IGNORE
    table[:classes] = np.arange(classes)
    return ValueCoding(table, problems)


@dataclasses.dataclass(frozen=True, eq=False)
class ColorCoding:
    """Classes by colour.

    colors: (n,) int32, ascending R + 256 G + 65536 B. classes: (n,) int32, their classes or IGNORE.
    """

    colors: np.ndarray
    classes: np.ndarray

    def __call__(self, values: np.ndarray, path: str) -> np.ndarray:
        """Return (H, W) int32 classes of the colours of a file; raises MaskError."""
        packed = pack_colors(values)
        place = np.searchsorted(self.colors, packed).clip(max=len(self.colors) - 1)
        unknown = self.colors[place] != packed
        if unknown.any():
            found = np.unique(packed[unknown])
            shown = ", ".join(f"{c & 255} {c >> 8 & 255} {c >> 16}" for c in found[:_SHOWN].tolist())
            more = f" and {len(found) - _SHOWN:,} others" if len(found) > _SHOWN else ""
            raise MaskError("colour", path, f"{shown}{more}")
        return self.classes[place]


def color_coding(colors: dict[tuple[int, int, int], int]) -> ColorCoding:
    """Return the coding of {(R, G, B): class}."""
    packed = np.array([r + 256 * g + 65536 * b for r, g, b in colors], np.int32)
    order = np.argsort(packed)
    return ColorCoding(packed[order], np.array([*colors.values()], np.int32)[order])


def pack_colors(values: np.ndarray) -> np.ndarray:
    """Return (H, W) int32 R + 256 G + 65536 B of (H, W, 3) colours; of (H, W) gray values those of gray."""
    values = values.astype(np.int32)
    if values.ndim == 2:
        return values * (1 + 256 + 65536)
    return values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentCoding:
    """Classes by the id of a segment, R + 256 G + 65536 B, that a JSON file lists for each mask.

    segments: {file name: (ids (n,) ascending, classes (n,))}; id 0 is no segment.
    """

    segments: dict[str, tuple[np.ndarray, np.ndarray]]

    def __call__(self, values: np.ndarray, path: str) -> np.ndarray:
        """Return (H, W) int32 classes of the segments of a file; raises MaskError."""
        ids, classes = self.segments[path.rpartition("/")[2]]
        packed = pack_colors(values) if values.ndim == 3 else values.astype(np.int32)
        ids, classes = np.r_[0, ids].astype(np.int32), np.r_[IGNORE, classes].astype(np.int32)
        place = np.searchsorted(ids, packed).clip(max=len(ids) - 1)
        unknown = ids[place] != packed
        if unknown.any():
            found = np.unique(packed[unknown])
            shown = ", ".join(map(str, found[:_SHOWN])) + ", ..." * (len(found) > _SHOWN)
            raise MaskError("segment", path, f"id {shown}")
        return classes[place]
