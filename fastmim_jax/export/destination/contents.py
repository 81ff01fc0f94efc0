"""fastmim_export.json: the list of the files of a folder that convert wrote, by which it knows its own."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmim_jax import __version__
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json

FILE = "fastmim_export.json"
KIND = "fastmim_jax export"


def write_contents(folder: str | os.PathLike) -> None:
    """Write the list of all files of a folder, with sizes and SHA-256 sums, and of its folders."""
    folder = Path(folder)
    files: dict[str, Any] = {}
    folders: list[str] = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            folders.append(name)
        else:
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    content = {"kind": KIND, "version": 1, "fastmim_jax": __version__}
    write_json(folder / FILE, content | {"files": files, "folders": folders})


def has_contents(folder: str | os.PathLike) -> bool:
    """Return whether a folder has a list that can be read."""
    return _read(Path(folder)) is not None


def find_foreign(folder: str | os.PathLike) -> list[str]:
    """Return what in a folder with a list is not in it, or has changed since, sorted; a name each.

    Listed files that are missing are no harm: there is nothing to lose.
    """
    folder = Path(folder)
    content = _read(folder) or {"files": {}, "folders": []}
    foreign = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name == FILE:
            continue
        if path.is_dir() and not path.is_symlink():
            if name not in content["folders"]:
                foreign.append(f"{name}/")
        elif name not in content["files"]:
            foreign.append(name)
        elif not _is_unchanged(path, content["files"][name]):
            foreign.append(f"{name} (changed)")
    return sorted(foreign)


def remove_listed(folder: str | os.PathLike) -> bool:
    """Delete the listed files of a folder, the list, and the folders that are empty then.

    Returns:
      Whether the folder is gone: whatever is not in the list stays.
    """
    folder = Path(folder)
    files = (_read(folder) or {"files": {}})["files"]
    # The list goes last: an interrupted removal can be completed.
    paths = sorted(_walk(folder), key=lambda path: len(path.parts), reverse=True)
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            _rmdir(path)
        elif path.relative_to(folder).as_posix() in files:
            path.unlink()
    (folder / FILE).unlink(missing_ok=True)
    return _rmdir(folder)


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 sum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> dict[str, Any] | None:
    """Return the content of the list; None without one that can be read."""
    if not os.path.lexists(folder / FILE) or (folder / FILE).is_symlink():
        return None
    try:
        content = read_json(folder / FILE, dict, "the list that convert wrote")
    except UserError:
        return None
    whole = isinstance(content.get("files"), dict) and isinstance(content.get("folders"), list)
    return content if content.get("kind") == KIND and whole else None


def _is_unchanged(path: Path, listed: Any) -> bool:
    if path.is_symlink() or not path.is_file() or not isinstance(listed, dict):
        return False
    if path.stat().st_size != listed.get("bytes"):
        return False
    return file_sha256(path) == listed.get("sha256")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below a folder, hidden ones too; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))


def _rmdir(folder: Path) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
