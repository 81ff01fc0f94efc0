"""The folders images/ and masks/ (or depths/), with splits inside of them or around them."""

import os
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.decode import DEFAULT_RULES
from fastmim_jax.data.masks.base import MaskedFiles, Request, number_names
from fastmim_jax.data.masks.coding import ValueCoding, values_from_zero
from fastmim_jax.data.masks.label_image import read_label_image
from fastmim_jax.data.masks.legend import EXPECTED, find_legend, read_legend
from fastmim_jax.data.masks.pairs import pair_folders
from fastmim_jax.data.masks.problems import describe_problems
from fastmim_jax.data.masks.scan import map_pairs
from fastmim_jax.data.sources.base import refuse_split
from fastmim_jax.data.sources.listing import holds_images, subfolders, top_level
from fastmim_jax.data.sources.splits import Division, divide, split_of
from fastmim_jax.errors import UserError

MASKS, DEPTHS = "masks", "depths"
SHOWN = 5  # names of classes in a message
_IMAGES = "images"
_UNLABELLED = 255, 65535  # values without a label, of 8 and of 16 bits


class Folders(NamedTuple):
    """A folder of images and the folder of their masks."""

    images: str
    masks: str


def matches(path: str) -> bool:
    """Return whether a folder holds images/ and masks/."""
    return bool(find_splits(path, MASKS))


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits of a folder; () if it is not divided."""
    return tuple(name for name in find_splits(path, MASKS) if name)


def open_split(path: str, request: Request) -> MaskedFiles:
    """Open a split, see `open_masks`.

    Raises:
      UserError: no such split, or masks that cannot be used.
    """
    folders = choose_split(path, MASKS, request.split)
    pairs = pair_folders(*folders)
    legend_path = request.legend or find_legend(path)
    if legend_path:
        legend = read_legend(legend_path)
        _check_names(legend_path, legend.names, request.classes)
        names, coding, notices = legend.names, legend.coding, pairs.notices
    else:
        masks = [mask for found in find_splits(path, MASKS).values() for mask in pair_folders(*found).masks]
        names, coding, more = _classes_of_values(path, _values_of(path, masks), request.classes)
        notices = (*pairs.notices, *more)
    return MaskedFiles(path, names, pairs.images, pairs.masks, coding, notices)


def _check_names(legend_path: str, names: tuple[str, ...], given: tuple[str, ...] | None) -> None:
    """Raise UserError for a legend with other classes than are given; classes without names fit any."""
    if given is None or given in (names, number_names(len(names))):
        return
    raise UserError(
        f"the legend {legend_path} has the classes {_listed(names)}, expected those of the model or the "
        f"training data, {_listed(given)}: give these names in this order, or leave config.model.classes "
        "unset"
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN:,} others" * (len(names) > SHOWN)


def find_splits(path: str, masks: str) -> dict[str, Folders]:
    """Return {split: its folders}; the split is "" where a folder is not divided, {} without such folders.

    Args:
      masks: name of the folder beside images/, MASKS or DEPTHS.
    """
    if not os.path.isdir(path):
        return {}
    both = Folders(os.path.join(path, _IMAGES), os.path.join(path, masks))
    if all(map(os.path.isdir, both)):
        inner = set(subfolders(both.images)) & set(subfolders(both.masks))
        division = divide(
            sorted(inner),
            lambda name: holds_images(os.path.join(both.masks, name)),
            top_level(both.masks).images,
        )
        if division.folders:
            return {
                split: Folders(os.path.join(both.images, name), os.path.join(both.masks, name))
                for split, name in division.folders.items()
            }
        return {"": both}
    found = {}
    for name in subfolders(path):
        split = split_of(name)
        inside = Folders(os.path.join(path, name, _IMAGES), os.path.join(path, name, masks))
        if split and all(map(os.path.isdir, inside)):
            found[split] = inside
    return found


def choose_split(path: str, masks: str, split: str) -> Folders:
    """Return the folders of a split; raises UserError if there is none."""
    found = find_splits(path, masks)
    if "" in found and split == "train":
        return found[""]
    meant = Division({name: name for name in found if name}, ()).find(split)
    if meant is None:
        names = tuple(name for name in found if name)
        expected = f"images/{split} and {masks}/{split}, or {split}/images and {split}/{masks}"
        refuse_split(split, f"the folder {path}", names, expected)
    return found[meant]


def _values_of(path: str, masks: list[str]) -> np.ndarray:
    """-> the ascending values of all masks; raises UserError if one is coloured or cannot be read."""

    def values(index: int) -> np.ndarray:
        found = np.unique(_gray(read_label_image(masks[index], DEFAULT_RULES), masks[index]))
        return found

    results, problems = map_pairs(values, range(len(masks)))
    if problems:
        raise UserError(describe_problems(path, len(masks), problems))
    return np.unique(np.concatenate(results))


def _gray(values: np.ndarray, path: str) -> np.ndarray:
    identity = ValueCoding(np.arange(65536, dtype=np.int32))
    if values.ndim == 2 and values.min(initial=0) >= 0 and values.max(initial=0) < 65536:
        return values
    return identity(values, path)


def _classes_of_values(
    path: str, values: np.ndarray, names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], ValueCoding, tuple[str, ...]]:
    """-> class names, coding and notices of masks without a legend, by the values in them."""
    if values.tolist() == [0, 255] and (names is None or len(names) == 2):
        table = np.full(256, -2, np.int32)
        table[[0, 255]] = 0, 1
        notice = (
            f"{path}: masks of 0 and 255 alone: 0 is class 0 and 255 class 1, no pixel is without a label"
        )
        return names or ("background", "foreground"), ValueCoding(table), (notice,)
    if names is not None:
        return names, values_from_zero(len(names)), ()
    labels = values[~np.isin(values, _UNLABELLED)]
    count = int(labels.max(initial=0)) + 1
    if not len(labels):
        raise UserError(f"{path}: no mask has a label; expected values from 0, 255 where there is none")
    notices: tuple[str, ...] = ()
    if len(labels) * 2 < count:
        shown = ", ".join(map(str, labels[:8])) + ", ..." * (len(labels) > 8)
        notices = (
            f"{path}: {len(labels):,} of the values 0 to {count - 1:,} occur ({shown}), and all {count:,} "
            f"count as classes: a legend such as {os.path.join(path, 'legend.txt')} tells which do "
            f"({EXPECTED})",
        )
    return number_names(count), values_from_zero(count), notices
