"""The objects of a run: small files, and checkpoints, which are whole once their sums are there."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.run_folder import BEST, CHECKPOINTS, writer_of
from fastmim_jax.train import checksums

LOCK = "lock"
FOLDERS = (CHECKPOINTS, BEST)  # of checkpoints
_CHECKPOINT = re.compile(rf"({'|'.join(FOLDERS)})/(\d+)/(.+)", re.ASCII)


class Checkpoint(NamedTuple):
    """A checkpoint of a run: the folder it is in, and its step."""

    folder: str
    step: int

    @property
    def name(self) -> str:
        """Return its name in a work directory."""
        return f"{self.folder}/{self.step}"

    @property
    def sums(self) -> str:
        """Return the name of the file that is put last and makes it whole."""
        return f"{self.name}/{checksums.FILE}"


def checkpoint_of(name: str) -> Checkpoint | None:
    """Return the checkpoint that a file of a work directory belongs to, or None."""
    match = _CHECKPOINT.fullmatch(name)
    return Checkpoint(match[1], int(match[2])) if match else None


def checkpoints_of(names: Iterable[str]) -> dict[Checkpoint, list[str]]:
    """Return {checkpoint: its files}, newest first."""
    found: dict[Checkpoint, list[str]] = {}
    for name in names:
        checkpoint = checkpoint_of(name)
        if checkpoint:
            found.setdefault(checkpoint, []).append(name)
    return dict(sorted(found.items(), key=lambda item: -item[0].step))


def is_small(name: str) -> bool:
    """Return whether a file of a work directory is copied as it is: neither of a checkpoint, nor temporary.

    Local locks, damaged checkpoints that were set aside, and what is being written stay on this machine.
    """
    parts = name.split("/")
    if name == LOCK or any(part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in parts):
        return False
    return not (parts[0] in FOLDERS and len(parts) > 1)


def local_files(folder: Path, process: int = 0) -> list[str]:
    """Return the names of the small files that a process writes, sorted; files may vanish meanwhile.

    folder: its work directory.
    """
    names = []
    for root, folders, files in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name not in FOLDERS]
        names += [Path(root, name).relative_to(folder).as_posix() for name in files]
    return sorted(name for name in names if is_small(name) and writer_of(name) == process)


def local_checkpoints(folder: Path) -> dict[Checkpoint, bytes]:
    """Return {complete checkpoint of a work directory: its sums}, newest first."""
    found = {}
    for name in FOLDERS:
        for path in (folder / name).glob(f"*/{checksums.FILE}"):
            if path.parent.name.isdecimal() and path.parent.name.isascii():
                try:
                    found[Checkpoint(name, int(path.parent.name))] = path.read_bytes()
                except OSError:
                    continue  # it was just deleted
    return dict(sorted(found.items(), key=lambda item: -item[0].step))


def parse_sums(content: bytes) -> dict[str, str]:
    """Return {name: SHA-256} of the lines of a file of sums."""
    lines = (line.partition("  ") for line in content.decode("utf-8", "replace").splitlines())
    return {name: digest for digest, _, name in lines if name}


def is_whole(checkpoint: Checkpoint, names: Iterable[str], sums: bytes) -> bool:
    """Return whether all files in the sums of a checkpoint are among names."""
    present = set(names)
    listed = parse_sums(sums)
    return bool(listed) and all(f"{checkpoint.name}/{name}" in present for name in listed)


def outdated(
    steps: Mapping[Checkpoint, object], local: Iterable[Checkpoint], keep: int, keep_every: int
) -> list[Checkpoint]:
    """Return the checkpoints in a store that a run would have deleted: as `Checkpoints` does."""
    here, old = set(local), []
    for folder in FOLDERS:
        newest = sorted((x for x in steps if x.folder == folder), key=lambda x: -x.step)
        most, every = (keep, keep_every) if folder == FOLDERS[0] else (1, 0)
        old += [x for x in newest[most:] if x not in here and not (every and x.step % every == 0)]
    return old
