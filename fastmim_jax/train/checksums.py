"""SHA-256 sums of the files of a checkpoint, in the format of the `sha256sum` command."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastmim_jax.io import write_text

FILE = "SHA256SUMS"
# Orbax writes these after the data, in the same rename that makes a checkpoint complete.
WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")


def write_checksums(folder: str | os.PathLike, leave_out: tuple[str, ...] = ()) -> None:
    """Write the sums of all files of a folder to SHA256SUMS in it; `sha256sum -c SHA256SUMS` checks them.

    Args:
      leave_out: names of files, relative to the folder, that are written later.
    """
    folder = Path(folder)
    names = [name for name in _files(folder) if name not in leave_out]
    write_text(folder / FILE, _text(folder, names))


def has_checksums(folder: str | os.PathLike) -> bool:
    """Return whether a folder has a file of sums."""
    return (Path(folder) / FILE).is_file()


def add_checksums(folder: str | os.PathLike, names: Sequence[str]) -> None:
    """Add the sums of files to those that SHA256SUMS has."""
    folder = Path(folder)
    present = [name for name in names if (folder / name).is_file()]
    write_text(folder / FILE, (folder / FILE).read_text() + _text(folder, present))


def find_damage(folder: str | os.PathLike) -> str:
    """Compare the files of a folder with their sums.

    Returns:
      What is wrong, such as "params/d/0af: its checksum differs"; empty if all files are as written.
    """
    folder = Path(folder)
    try:
        lines = (folder / FILE).read_bytes().decode().splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        sums = {match[2]: match[1] for match in matches if match}
        if not sums or None in matches or len(sums) < len(lines):
            return f"{FILE}: it cannot be read"
        present = set(_files(folder))
        for name in sums:
            if name not in present:
                return f"{name}: it is missing"
        for name in sorted(present - set(sums) - set(WRITTEN_LAST)):
            return f"{name}: it has no checksum"
        for name, digest in zip(sums, _digests(folder, list(sums)), strict=True):
            if digest != sums[name]:
                return f"{name}: its checksum differs"
    except UnicodeDecodeError:
        return f"{FILE}: it cannot be read"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return ""


def _text(folder: Path, names: Sequence[str]) -> str:
    sums = zip(names, _digests(folder, names), strict=True)
    return "".join(f"{digest}  {name}\n" for name, digest in sums)


def _files(folder: Path) -> list[str]:
    """Return the names of the files below a folder, sorted; hidden ones and the sums are left out."""
    return sorted(str(path.relative_to(folder)) for path in _walk(folder) if path.name != FILE)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _digests(folder: Path, names: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(4) as pool:  # hashing and reading release the interpreter
        return list(pool.map(lambda name: _digest(folder / name), names))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
