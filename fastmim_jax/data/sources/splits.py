"""Splits of a data set, recognised by the names of its folders that hold images."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

SPLITS = ("train", "val", "valid", "validation", "test")
EVALUATION_SPLITS = SPLITS[1:]  # in order of preference
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval"), "val"),
    **dict.fromkeys(("evaluation",), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Such as train2017, training_set, test-images and seg_train.
_BEFORE, _AFTER = r"(?:(?:img|images?|seg|data)[-_ ])?", r"(?:[-_ ]?(?:set|data|images|split|\d{4}))?"
_NAME = re.compile(f"{_BEFORE}({'|'.join(_WORDS)}){_AFTER}")


class Division(NamedTuple):
    """A folder that is divided into splits.

    folders: {split: name of its folder}, in the order of SPLITS; {} if it is not divided.
    left_out: names of the folders with images that are in no split, "" for images right in the folder.
    """

    folders: dict[str, str]
    left_out: tuple[str, ...]

    def find(self, split: str) -> str | None:
        """Return the folder of a split, by its name or another usual one, or None."""
        if split in self.folders:
            return self.folders[split]
        if split in self.folders.values():
            return split
        meaning = _meaning(split)
        return next((x for name, x in self.folders.items() if meaning and _meaning(name) == meaning), None)


def only_splits(folders: Sequence[str]) -> bool:
    """Return whether there are folders and all are named like splits."""
    return bool(folders) and all(map(split_of, folders))


def split_of(folder: str) -> str | None:
    """Return the split that the name of a folder tells: one of SPLITS, or None.

    >>> [split_of(name) for name in ("Training", "valid", "TEST", "dev", "train2017", "trains")]
    ['train', 'valid', 'test', 'val', 'train', None]
    """
    return folder.lower() if folder.lower() in SPLITS else _meaning(folder)


def divide(folders: Sequence[str], holds_images: Callable[[str], bool], images: bool = False) -> Division:
    """Return the splits of a folder; folders without images do not count.

    Where other folders hold images too, it is divided only if there are training and evaluation images:
    "train" alone, beside "bus" and "tram", is a class.

    Args:
      folders: names of its folders.
      holds_images: name -> whether there is an image in the folder or below.
      images: whether there are images right in it.
    """
    named: dict[str, str] = {}
    for folder in sorted(folders, key=lambda name: (name not in SPLITS, name)):
        split = split_of(folder)
        if split:
            named.setdefault(split, folder)
    if not named:
        return Division({}, ())
    filled = {split: named[split] for split in SPLITS if split in named and holds_images(named[split])}
    others = [name for name in folders if name not in named.values() and holds_images(name)]
    both = "train" in filled and len(filled) > 1
    if (others and not both) or (images and not filled):
        return Division({}, ())
    empty = {split: named[split] for split in SPLITS if split in named}
    return Division(filled or empty, tuple(others) + ("",) * images)


def describe_left_out(path: str, division: Division) -> tuple[str, ...]:
    """Return a sentence on the images that are in no split, in a tuple; () if there are none."""
    if not division.left_out:
        return ()
    shown = ", ".join(name or "right in it" for name in division.left_out[:5])
    more = ", ..." * (len(division.left_out) > 5)
    used = ", ".join(division.folders.values())
    return (f"{path} is divided into {used}: images elsewhere are ignored ({shown}{more})",)


def _meaning(name: str) -> str | None:
    """-> "train", "val" or "test", or None."""
    match = _NAME.fullmatch(name.lower())
    return _WORDS[match[1]] if match else None
