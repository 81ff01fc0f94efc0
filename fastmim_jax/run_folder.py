"""Names in a work directory, and how checkpoints are typed: one spelling for every command."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.errors import UserError, nearest
from fastmim_jax.paths import local_path

CHECKPOINTS, BEST = "checkpoints", "best"  # folders of a work directory
CONFIG = "config.json"
_OF_A_PROCESS = re.compile(r"bad_files-([1-9]\d*)\.txt", re.ASCII)


def list_of_bad_files(process: int) -> str:
    """Return the name of the file in which a process lists the records that it could not decode."""
    return f"bad_files-{process}.txt" if process else "bad_files.txt"


def writer_of(name: str) -> int:
    """Return the number of the process that writes a file of a work directory: mostly the first one."""
    match = _OF_A_PROCESS.fullmatch(name)
    return int(match[1]) if match else 0


class CheckpointPath(NamedTuple):
    """A checkpoint as it was typed.

    workdir: of the run.
    folder: "checkpoints" or "best" of the run; None if it was not typed.
    step: None if it was not typed.
    """

    workdir: Path
    folder: Path | None
    step: int | None


def find_checkpoint(path: str | os.PathLike) -> CheckpointPath:
    """Return the checkpoint that a path names.

    Args:
      path: DIR, DIR/config.json, DIR/checkpoints, DIR/checkpoints/STEP, DIR/best or DIR/best/STEP, of the
        work directory DIR of a run.

    Raises:
      UserError: it is none of them.
    """
    path = Path(local_path(path))
    for depth, workdir in enumerate((path, *path.parents[:2])):
        if not (workdir / CONFIG).is_file():
            continue
        names = path.parts[len(path.parts) - depth :]
        if not names or names == (CONFIG,):
            return CheckpointPath(workdir, None, None)
        if names[0] in (CHECKPOINTS, BEST) and (len(names) == 1 or _is_step(names[1])):
            if not path.exists():
                break
            return CheckpointPath(workdir, workdir / names[0], int(names[1]) if len(names) == 2 else None)
    raise UserError(_no_run(path))


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Return whether a path names a run or a checkpoint of one."""
    try:
        find_checkpoint(path)
    except UserError:
        return False
    return True


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _no_run(path: Path) -> str:
    if path.is_file():
        return f"{path} is a file: type fastmim convert {path} {path.with_suffix('')}, and give that folder"
    if path.parent.name in (CHECKPOINTS, BEST) and path.parent.is_dir() and _is_step(path.name):
        steps = ", ".join(sorted(filter(_is_step, os.listdir(path.parent)), key=int)) or "none"
        return f"{path.parent} has no checkpoint of step {path.name}: choose from: {steps}"
    if not path.exists():
        return (
            f"{path} does not exist{_near(path)}: expected the --workdir of a run, or one of its "
            f"checkpoints such as {path}/checkpoints/1000"
        )
    inner = sorted(one.parent for one in path.glob(f"*/{CONFIG}"))
    choice = f"; it holds the runs {', '.join(one.name for one in inner[:5])}" if inner else ""
    return (
        f"{path} has no config.json: expected the --workdir of a run, or one of its checkpoints such as "
        f"{path}/checkpoints/1000{choice}"
    )


def _near(path: Path) -> str:
    """Return the run with the nearest name, for a path that does not exist."""
    parent = path.parent
    runs = [one.parent.name for one in parent.glob(f"*/{CONFIG}")] if parent.is_dir() else []
    near = nearest(path.name, runs)
    return f" (did you mean {parent / near}?)" if near else ""
