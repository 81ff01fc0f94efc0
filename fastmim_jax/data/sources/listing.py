"""Listing of folders, the same on every file system, without hidden entries, once per process."""

import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastmim_jax.data.image_formats import HEIF_EXTENSIONS, describe_extensions, has_heif, image_extensions
from fastmim_jax.data.sources.paths import PathTable
from fastmim_jax.data.sources.skipped import FORBIDDEN, Skipped, classify, describe_skipped, skip
from fastmim_jax.errors import UserError

ARCHIVES = ("parquet", "tar", "zip")  # extensions of files that hold data sets
_CACHED = 16  # listings that a process keeps
_TWICE = "link to a folder listed already"
_RUN = "work directory or pictures of a run"
# Beside config.json, in a work directory or a converted model.
_OF_A_RUN = ("checkpoints", "metrics.jsonl", "data.json", "conversion.json", "model.safetensors")
_RUN_FOLDERS = frozenset({"best", "checkpoints", "mlflow", "pictures", "tensorboard", "wandb"})
_RECENT = 2 * 10**9  # ns: a folder that changed since may change again within the precision of its time


class TopLevel(NamedTuple):
    """The visible entries right in a folder.

    folders: their sorted names. archives: {extension: sorted names of files}, see ARCHIVES.
    images: whether there is an image. skipped: entries that are no files or folders to read.
    """

    folders: tuple[str, ...]
    archives: dict[str, tuple[str, ...]]
    images: bool
    skipped: Skipped = {}


class Listing(NamedTuple):
    """All images below a folder.

    paths: relative to it, sorted. folders: names of its visible folders.
    others: {(name of the first folder or "", extension): number} of the other visible files.
    skipped: entries that are no files or folders to read.
    """

    paths: PathTable
    folders: frozenset[str]
    others: Counter[tuple[str, str]]
    skipped: Skipped = {}

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

    Work directories of runs, whose pictures are no data, are skipped, and so are entries that cannot be
    read: names that are not UTF-8, links to nothing, folders without permission, FIFOs and devices.
    The listing is that of an earlier call as long as no folder in it has changed since.

    Raises:
      UserError: no permission.
    """
    return _cached(_listings, folder, _scan)


def holds_images(folder: str) -> bool:
    """Return whether there is an image in a folder or below, outside of work directories of runs."""
    return _cached(_holding, folder, _look_for_images)


def is_work_directory(folder: str) -> bool:
    """Return whether a folder is the work directory of a run."""
    return os.path.exists(os.path.join(folder, "config.json")) and any(
        os.path.exists(os.path.join(folder, name)) for name in _OF_A_RUN
    )


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
    sentences += describe_skipped(path, listing.skipped)
    with_images = {os.fsdecode(folder).partition("/")[0] for folder in listing.paths.folders} - {""}
    empty = sorted(listing.folders - with_images)
    if with_images and empty:
        named = [f"{name} ({count_kinds(listing.kinds(name)) or 'empty'})" for name in empty[:5]]
        folders = (
            "1 folder without images is no class"
            if len(empty) == 1
            else (f"{len(empty):,} folders without images are no classes")
        )
        sentences.append(f"{path}: {folders}: {', '.join(named + ['...'] * (len(empty) > 5))}")
    return tuple(sentences)


def no_images(path: str, listing: Listing) -> str:
    """Return the sentence for a folder or archive without an image."""
    kinds = listing.kinds()
    if not kinds and listing.skipped:
        why, (_, name) = next(iter(listing.skipped.items()))
        return (
            f"{path} holds no images, but {name} ({why}); expected images in it ({describe_extensions()})."
        )
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
_holding: OrderedDict[str, _Entry] = OrderedDict()  # whether a folder holds images


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
    skipped: Skipped = {}
    for entry in _entries(folder):
        kind, found = extension(entry.name), classify(entry)
        if found == "folder":
            folders.append(entry.name)
        elif found == "file" and kind in archives:
            archives[kind].append(entry.name)
        elif found == "file":
            images = images or is_image(kind)
        elif found != "file":
            skip(skipped, found, entry.name)
    if any(archives.values()):  # a run beside the data does not change what kind of data it is
        folders = [name for name in folders if not is_work_directory(os.path.join(folder, name))]
    named = {kind: tuple(sorted(names)) for kind, names in archives.items()}
    return _Entry(TopLevel(tuple(sorted(folders)), named, images, skipped), changed)


def _look_for_images(root: str) -> _Entry:
    pending, changed = [root], {root: _modified(root)}
    while pending:
        folder = pending.pop()
        changed[folder] = _modified(folder)
        try:
            entries = [(classify(entry), entry) for entry in _entries(folder)]
        except (OSError, UserError):
            continue
        if is_work_directory(folder):
            continue
        if any(found == "file" and is_image(extension(entry.name)) for found, entry in entries):
            return _Entry(True, changed)
        inner = [os.path.realpath(entry.path) for found, entry in entries if found == "folder"]
        pending += sorted(set(inner) - set(changed), reverse=True)
    return _Entry(False, changed)


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
    scan = _Scan(root)
    pending = [""]
    while pending:
        pending += scan.folder(pending.pop())
    scan.images.sort()
    paths = PathTable(map(os.fsencode, scan.images))
    return _Entry(Listing(paths, scan.first_level, scan.others, scan.skipped), scan.changed)


class _Scan:
    """The images below a folder, listed folder by folder."""

    def __init__(self, root: str):
        self._root = root
        self._visited: set[str] | None = None  # real paths, from the first link to a folder on
        self.images: list[str] = []
        self.first_level: frozenset[str] = frozenset()
        self.others: Counter[tuple[str, str]] = Counter()
        self.skipped: Skipped = {}
        self.changed: dict[str, int] = {}

    def folder(self, prefix: str) -> list[str]:
        """List a folder by its path below the root; return the folders in it, in reverse order."""
        folder = os.path.join(self._root, prefix) if prefix else self._root
        if self._is_visited(folder):  # a link to a folder above, or to one that was listed already
            self._skip(_TWICE, prefix)
            return []
        self.changed[folder] = _modified(folder)
        try:
            entries = _entries(folder)
        except (OSError, UserError):
            if not prefix:
                raise
            self._skip(FORBIDDEN, prefix)
            return []
        is_run = any(entry.name == "config.json" for entry in entries) and is_work_directory(folder)
        if is_run and prefix:
            self._skip(_RUN, prefix)
            self.first_level -= {prefix}
            return []
        folders, files = self._sort(entries, prefix, is_run)
        if not prefix:
            self.first_level = frozenset(folders)
        start = f"{prefix}/" if prefix else ""
        self.images += [start + name for name in sorted(files)]
        # Sorted, so that of two links to one folder every machine follows the same one.
        return [start + name for name in sorted(folders, reverse=True)]

    def _sort(self, entries: list[os.DirEntry], prefix: str, is_run: bool) -> tuple[list[str], list[str]]:
        """-> names of the folders and of the images in a folder; its other entries are counted."""
        is_image_kind = image_extensions().__contains__
        start, first = f"{prefix}/" if prefix else "", prefix.partition("/")[0]
        folders, files = [], []
        for entry in entries:
            name, found = entry.name, classify(entry)
            kind = name[name.rfind(".") + 1 :] if "." in name else ""
            if found == "folder" and is_run and name in _RUN_FOLDERS:
                self._skip(_RUN, name)
            elif found == "folder":
                folders.append(name)
                if self._visited is None and entry.is_symlink():
                    self._visited = {os.path.realpath(listed) for listed in self.changed}
            elif found != "file":
                self._skip(found, start + name)
            elif is_image_kind(kind) or is_image_kind(kind.lower()):
                files.append(name)
            else:
                self.others[first, kind.lower()] += 1
        return folders, files

    def _is_visited(self, folder: str) -> bool:
        """Return whether a folder was listed, once there are links to folders; and note it."""
        if self._visited is None:
            return False
        resolved = os.path.realpath(folder)
        if resolved in self._visited:
            return True
        self._visited.add(resolved)
        return False

    def _skip(self, reason: str, path: str) -> None:
        skip(self.skipped, reason, path)
