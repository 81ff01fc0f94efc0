"""Data sets of several files: a file, a pattern such as shard-{0000..0012}.tar, or a folder of them."""

import glob
import os
import re
from collections.abc import Sequence

from fastmim_jax.data.sources.base import refuse_split
from fastmim_jax.data.sources.listing import extension, top_level
from fastmim_jax.data.sources.skipped import describe_skipped
from fastmim_jax.data.sources.splits import SPLITS, Division, only_splits, split_of
from fastmim_jax.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def has_shards(path: str, kind: str) -> bool:
    """Return whether `path` is a file of a kind, a pattern of such files or a folder of them.

    kind: an extension of `listing.ARCHIVES`. A folder counts if it has neither images nor sub-folders
    beside them, or nothing but a sub-folder "data" or sub-folders named like splits of that form.
    """
    if os.path.isdir(path):
        return bool(_folder_shards(path, kind))
    return extension(path) == kind and (os.path.isfile(path) or is_pattern(path))


def split_names(path: str, kind: str) -> tuple[str, ...]:
    """Return the splits that the names of files or sub-folders tell, in the order of SPLITS; () if none.

    Raises:
      UserError: see `find_shards`.
    """
    found = find_shards(path, kind)
    return tuple(name for name in SPLITS if name in found)


def choose_shards(path: str, kind: str, split: str) -> tuple[str, ...]:
    """Return the sorted files of a split, by its name or another usual one.

    Raises:
      UserError: see `find_shards`; or no such split.
    """
    found, offered = find_shards(path, kind), split_names(path, kind)
    if not offered and split == "train":
        return found[""]
    name = Division({name: name for name in offered}, ()).find(split)
    if name is None:
        refuse_split(split, path, offered, f"files such as {split}-00000.{kind}")
    return found[name]


def find_shards(path: str, kind: str) -> dict[str, tuple[str, ...]]:
    """Return {split: sorted files}, with "" for files that tell no split.

    The split is the first word of a file's name that is one of SPLITS, or the name of its folder.

    Raises:
      UserError: files of a pattern are missing, or only some files tell a split.
    """
    if os.path.isdir(path):
        return _folder_shards(path, kind)
    return {"": _matching_files(path) if is_pattern(path) else (path,)}


def skipped_in(path: str, files: Sequence[str]) -> list[str]:
    """Return sentences on the entries beside the files of a data set that cannot be read."""
    folders = dict.fromkeys(os.path.dirname(file) for file in files) if os.path.isdir(path) else {}
    return [x for folder in folders for x in describe_skipped(folder, top_level(folder).skipped)]


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern with {...} or *, and no file."""
    return ("{" in path or "*" in path) and not os.path.exists(path)


def expand_braces(pattern: str) -> list[str]:
    """Return the words of a pattern: "a{08..10}" -> a08, a09, a10; "{train,val}" -> train, val."""
    braces = _BRACES.search(pattern)
    if not braces:
        return [pattern]
    words, numbers = braces[1].split(","), _RANGE.fullmatch(braces[1])
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        words = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [word for inner in words for word in expand_braces(before + inner + after)]


def _matching_files(pattern: str) -> tuple[str, ...]:
    names = expand_braces(pattern)
    found = [file for name in names for file in (sorted(glob.glob(name)) if "*" in name else [name])]
    missing = [file for file in found if not os.path.isfile(file)]
    if len(missing) == len(found):
        example = f", such as {missing[0]}" if missing else ""
        raise UserError(
            f"No file matches the pattern {pattern}{example}; expected {{000..012}} with the first and the "
            "last number, or *, in quotes, so that the shell leaves it alone."
        )
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(found):,} files of the pattern {pattern} do not exist, such as "
            f"{missing[0]}; expected all of them."
        )
    return tuple(dict.fromkeys(found))


def _folder_shards(path: str, kind: str) -> dict[str, tuple[str, ...]]:
    top = top_level(path)
    if top.images:
        return {}
    if not top.folders:
        return _by_split(path, top.archives[kind])
    if top.folders == ("data",) and not top.archives[kind]:
        return _folder_shards(os.path.join(path, "data"), kind)
    if not only_splits(top.folders) or top.archives[kind]:
        return {}
    found = {}
    for folder in top.folders:
        inner = top_level(os.path.join(path, folder))
        if inner.folders or inner.images or not inner.archives[kind]:
            return {}
        split = split_of(folder) or folder
        found[split] = tuple(os.path.join(path, folder, name) for name in inner.archives[kind])
    return found


def _by_split(path: str, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name in names:
        words = re.split(r"[^a-z]+", name.lower())
        split = next((word for word in words if word in SPLITS), "")
        found.setdefault(split, []).append(os.path.join(path, name))
    if "" in found and len(found) > 1:
        splits = ", ".join(sorted(set(found) - {""}))
        raise UserError(
            f"{path} holds files of the splits {splits}, and {os.path.basename(found[''][0])}, whose name "
            "tells no split; expected one in the name of each."
        )
    return {split: tuple(files) for split, files in found.items()}
