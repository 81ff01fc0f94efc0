"""The small files of a run that is resumed: damaged ones are named and rebuilt, or the run is refused."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.saved_config import find_mismatch, unflatten
from fastmim_jax.train.accumulation_file import FILE as ACCUMULATION_FILE
from fastmim_jax.train.accumulation_file import read_accumulation
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.data_values import FILE as VALUES_FILE
from fastmim_jax.train.data_values import read_values
from fastmim_jax.train.report import BASELINES_FILE, read_baselines
from fastmim_jax.train.runs import read_config
from fastmim_jax.train.warm_start import has_checkpoint

# File -> (function that reads it and raises UserError, what becomes of it).
_REBUILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    BASELINES_FILE: (read_baselines, "the trivial losses are computed again"),
    ACCUMULATION_FILE: (read_accumulation, "the number of micro-batches is chosen again"),
    VALUES_FILE: (read_values, "the range of the values is that of config.json"),
}

# Names at the top of a work directory that a run without config.json cannot have written.
_WRITTEN = (
    *(VALUES_FILE, BASELINES_FILE, ACCUMULATION_FILE, "data.json", "classes.json", "transfer.json"),
    *("lineage.json", "metrics.jsonl", "evaluation.json", "confusion.csv"),
)


def repair_state_files(workdir: str | Path, log: Callable[[str], None]) -> None:
    """Rebuild damaged state files of a work directory, on the first process; the others wait.

    A damaged file is renamed to damaged-NAME. A config.json that is missing or damaged is restored from the
    newest whole checkpoint.

    Raises:
      UserError: a run has checkpoints and its config cannot be restored; or the folder is no run, and has
        files in it that a run would overwrite.
    """
    if jax.process_index() == 0 and Path(workdir).is_dir():
        repair(Path(workdir), log)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("fastmim repair_state_files")


def repair(workdir: Path, log: Callable[[str], None]) -> None:
    """Do the work of `repair_state_files`, on this process."""
    _check_foreign(workdir)
    _repair(workdir, log)


def _check_foreign(workdir: Path) -> None:
    """Refuse a folder of the user's with files of the names that a run writes."""
    if has_checkpoint(workdir) or (workdir / "conversion.json").exists():
        return
    found = [name for name in _WRITTEN if os.path.lexists(workdir / name)]
    config = workdir / "config.json"
    if config.is_file():
        try:
            found = ["config.json"] if find_mismatch(read_json(config, dict, "a config")) else []
        except UserError:
            found = []  # damaged: renamed, not overwritten
    if found:
        raise UserError(
            f"{workdir} has {', '.join(found[:3])}, but not as a run of fastmim writes it: type another "
            "--workdir; nothing was changed"
        )


def _repair(workdir: Path, log: Callable[[str], None]) -> None:
    for name, (read, consequence) in _REBUILT.items():
        if (workdir / name).exists():
            try:
                read(workdir)
            except UserError as error:
                log(f"{_problem(error)}: {consequence}, the file is now {_set_aside(workdir / name)}")
    if (workdir / "conversion.json").exists():
        return  # refused elsewhere
    try:
        if (workdir / "config.json").exists() or has_checkpoint(workdir):
            read_config(workdir)
    except UserError as error:
        if has_checkpoint(workdir):
            config, source = _config_of_checkpoint(workdir, error)
            if (workdir / "config.json").exists():
                _set_aside(workdir / "config.json")
            write_json(workdir / "config.json", config, indent=2)
            log(f"{_problem(error)}: it is restored from {source}")
        else:
            log(f"{_problem(error)}: the file is now {_set_aside(workdir / 'config.json')}")


def _config_of_checkpoint(workdir: Path, problem: UserError) -> tuple[dict[str, Any], Path]:
    """Return the nested config in the newest whole checkpoint, and the checkpoint."""
    with Checkpoints(workdir / "checkpoints", alone=True) as checkpoints:
        step = checkpoints.find_whole().step
        flat = {} if step is None else checkpoints.position(step).get("config") or {}
    config = unflatten(flat)
    if not isinstance(config.get("method") or config.get("model"), Mapping):
        raise UserError(
            f"{_problem(problem)}, and no checkpoint holds a config: type another --workdir"
        ) from problem
    return config, workdir / "checkpoints" / str(step)


def _problem(error: UserError) -> str:
    """Return what was seen, without what was expected."""
    return re.split(r", expected |: expected ", str(error))[0]


def _set_aside(path: Path) -> str:
    """Rename a file to damaged-NAME, with a number if that is taken, and return the name."""
    number, name = 0, f"damaged-{path.name}"
    while path.with_name(name).exists():
        number += 1
        name = f"damaged-{path.stem}-{number}{path.suffix}"
    path.rename(path.with_name(name))
    return name
