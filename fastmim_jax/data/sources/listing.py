"""Listing of folders, the same on every file system, without hidden entries, once per process."""

import os
import stat
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastmim_jax.data.image_formats import HEIF_EXTENSIONS, describe_extensions, has_heif, image_extensions
from fastmim_jax.data.sources.paths import PathTable
from fastmim_jax.errors import UserError

ARCHIVES = ("parquet", "tar", "zip")  # extensions of files that hold data sets
_CACHED = 16  # listings that a process keeps
_RECENT = 2 * 10**9  # ns: a folder that changed since may change again within the precision of its time


class TopLevel(NamedTuple):
    """The visible entries right in a folder.

    folders: their sorted names. archives: {extension: sorted names of files}, see ARCHIVES.
    images: whether there is an image.
    """

    folders: tuple[str, ...]
    archives: dict[str, tuple[str, ...]]
    images: bool


class Listing(NamedTuple):
    """All images below a folder.

    paths: relative to it, sorted. folders: names of its visible folders.
    others: {(name of the first folder or "", extension): number} of the other visible files.
    special: number of entries named like images that are FIFOs, sockets or devices, or links to them.
    """

    paths: PathTable
    folders: frozenset[str]
    others: Counter[tuple[str, str]]
    special: int = 0

    def kinds(self, folder: str | None = None) -> Counter[str]:
        """Return {extension: number} of the other files, of all or of those in one first-level folder."""
        kinds: Counter[str] = Counter()
        for (first, kind), count in self.others.items():
            if folder in (None, first):
                kinds[kind] += count
        return kinds


def top_level(folder: str) -> TopLevel:
    """Return what is right in a folder.

    Raises:
      UserError: no permission.
    """
    return _cached(_top_levels, folder, _read_top_level)


def subfolders(folder: str) -> tuple[str, ...]:
    """Return the sorted names of the visible folders in a folder; raises as `top_level`."""
    return top_level(folder).folders


def list_images(folder: str) -> Listing:
    """Return all images below a folder; links are followed, and no folder is listed twice.

    The listing is that of an earlier call as long as no folder in it has changed since.

    Raises:
      UserError: no permission.
    """
    return _cached(_listings, folder, _scan)


def extension(name: str) -> str:
    """Return the extension of a file name in lower case, without its dot."""
    return os.path.splitext(name)[1].lower().removeprefix(".")


def count_kinds(kinds: Counter[str], most: int = 5) -> str:
    """Return the numbers of files by extension: "3 .txt, 1 without extension"."""
    ranking = sorted(kinds.items(), key=lambda item: (-item[1], not item[0], item[0]))
    shown = [f"{count:,} {'.' + kind if kind else 'without extension'}" for kind, count in ranking[:most]]
    return ", ".join(shown + ["..."] * (len(kinds) > most))


def notices(path: str, listing: Listing) -> tuple[str, ...]:
    """Return sentences on the files below `path` that are no images, and on folders without images."""
    sentences, kinds = [], listing.kinds()
    if kinds:
        files = f"{kinds.total():,} other file{'s' * (kinds.total() > 1)} ignored ({count_kinds(kinds)})"
        sentences.append(f"{path}: {files}{_heif_hint(kinds)}")
    if listing.special:
        ones = "1 FIFO or device" if listing.special == 1 else f"{listing.special:,} FIFOs or devices"
        sentences.append(f"{path}: {ones} named like an image ignored; expected files")
    with_images = {os.fsdecode(folder).partition("/")[0] for folder in listing.paths.folders} - {""}
    empty = sorted(listing.folders - with_images)
    if with_images and empty:
        shown = [f"{name} ({count_kinds(listing.kinds(name)) or 'empty'})" for name in empty[:5]]
        folders = (
            "1 folder without images is no class"
            if len(empty) == 1
            else (f"{len(empty):,} folders without images are no classes")
        )
        sentences.append(f"{path}: {folders}: {', '.join(shown + ['...'] * (len(empty) > 5))}")
    return tuple(sentences)


def no_images(path: str, listing: Listing) -> str:
    """Return the sentence for a folder or archive without an image."""
    kinds = listing.kinds()
    if not kinds:
        return f"{path} is empty; expected images in it ({describe_extensions()})."
    files = f"{kinds.total():,} other file{'s' * (kinds.total() > 1)} ({count_kinds(kinds)})"
    hint = _heif_hint(kinds)
    return f"{path} holds no images, but {files}{hint}; expected images in it ({describe_extensions()})."


def is_image(kind: str) -> bool:
    """Return whether an extension, see `extension`, is that of an image."""
    return kind in image_extensions()


def _heif_hint(kinds: Iterable[str]) -> str:
    unread = sorted(HEIF_EXTENSIONS.intersection(kinds))
    if not unread or has_heif():
        return ""
    return f"; `pip install pillow-heif` (the extra `heif`) reads .{', .'.join(unread)}"


class _Entry(NamedTuple):
    value: Any
    changed: dict[str, int]  # {folder: its time of modification, ns}


_listings: OrderedDict[str, _Entry] = OrderedDict()
_top_levels: OrderedDict[str, _Entry] = OrderedDict()


def _cached(cache: OrderedDict[str, _Entry], folder: str, read: Callable[[str], _Entry]) -> Any:
    key = os.path.realpath(folder)
    entry = cache.get(key)
    if entry is not None and all(_modified(name) == time for name, time in entry.changed.items()):
        cache.move_to_end(key)
        return entry.value
    started = time.time_ns()
    entry = read(key)
    cache.pop(key, None)
    if max(entry.changed.values()) < started - _RECENT:
        cache[key] = entry
        if len(cache) > _CACHED:
            cache.popitem(last=False)
    return entry.value


def _modified(folder: str) -> int:
    """-> the time of the last change of a folder, ns; 0 if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _read_top_level(folder: str) -> _Entry:
    changed = {folder: _modified(folder)}
    folders: list[str] = []
    archives: dict[str, list[str]] = {kind: [] for kind in ARCHIVES}
    images = False
    for entry in _entries(folder):
        kind = extension(entry.name)
        if entry.is_dir():
            folders.append(entry.name)
        elif kind in archives:
            archives[kind].append(entry.name)
        else:
            images = images or is_image(kind)
    named = {kind: tuple(sorted(names)) for kind, names in archives.items()}
    return _Entry(TopLevel(tuple(sorted(folders)), named, images), changed)


def _is_special(path: str) -> bool:
    """-> whether a path exists and is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except PermissionError:
        raise UserError(
            f"No permission to read the folder {folder}; expected to list its images: "
            f"`chmod -R u+rX {folder}` or run as its owner."
        ) from None


def _scan(root: str) -> _Entry:
    images: list[str] = []
    others: Counter[tuple[str, str]] = Counter()
    changed: dict[str, int] = {}
    visited: set[str] | None = None  # real paths, from the first link to a folder on
    pending = [""]
    first_level: frozenset[str] = frozenset()
    special = 0
    is_image_kind = image_extensions().__contains__
    while pending:
        prefix = pending.pop()
        folder = os.path.join(root, prefix) if prefix else root
        if visited is not None:
            resolved = os.path.realpath(folder)
            if resolved in visited:  # a link to a folder above, or to one that was listed already
                continue
            visited.add(resolved)
        changed[folder] = _modified(folder)
        first = prefix.partition("/")[0]
        folders, files = [], []
        for entry in _entries(folder):
            name = entry.name
            kind = name[name.rfind(".") + 1 :] if "." in name else ""
            if entry.is_dir():
                folders.append(name)
                if visited is None and entry.is_symlink():
                    visited = {os.path.realpath(listed) for listed in changed}
            elif is_image_kind(kind) or is_image_kind(kind.lower()):
                if entry.is_file() or not _is_special(entry.path):
                    files.append(name)
                else:
                    special += 1
            else:
                others[first, kind.lower()] += 1
        prefix = f"{prefix}/" if prefix else ""
        if not prefix:
            first_level = frozenset(folders)
        # Sorted, so that of two links to one folder every machine follows the same one.
        pending += [prefix + name for name in sorted(folders, reverse=True)]
        images += [prefix + name for name in sorted(files)]
    images.sort()
    return _Entry(Listing(PathTable(map(os.fsencode, images)), first_level, others, special), changed)
