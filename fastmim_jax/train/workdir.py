"""The work directory of a run: its config, and whether another start may use it."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.file_lock import try_lock
from fastmim_jax.io import remove_empty, write_text
from fastmim_jax.paths import utf8_path
from fastmim_jax.saved_config import config_from_dict, differences
from fastmim_jax.stages import AUTO, at_stage, stage_count
from fastmim_jax.train.accumulation_file import FILE as ACCUMULATION_FILE
from fastmim_jax.train.accumulation_file import keep_accumulation
from fastmim_jax.train.extension import check_extension, check_nothing_to_extend, only_length
from fastmim_jax.train.run_lock import FILE as LOCK_FILE
from fastmim_jax.train.runs import read_saved_config
from fastmim_jax.train.warm_start import has_checkpoint

# Files and folders that a start writes before its first metrics; none is of use without a run.
OF_A_START = {
    *(LOCK_FILE, "config.json", "data.json", "values.json", "classes.json", "transfer.json"),
    *("baselines.json", ACCUMULATION_FILE, "metrics.jsonl", "tensorboard", "checkpoints"),
    *("loggers.json", "wandb", "mlflow"),
}


def prepare_workdir(
    workdir: str | Path, config: Any, extend: bool = False, records: int | None = None
) -> Path:
    """Make the work directory, or check that the config in it agrees.

    A run that ended before its first metrics has left nothing to agree with.

    Args:
      extend: whether the run may be longer than it was begun for, where that leaves its past as it was.
      records: images in the training data.

    Raises:
      UserError: it cannot be written to, or holds another config (the message names the keys).
    """
    workdir = Path(utf8_path(workdir, "--workdir="))
    config_file = workdir / "config.json"
    if (workdir / "conversion.json").exists():
        raise UserError(
            f"{workdir} holds a converted checkpoint, which has no training to resume: type "
            f"--config.init={workdir} and another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        before = read_saved_config(workdir) if config_file.exists() else None
        if before is not None and in_use(workdir):
            _check_same(workdir, before, config, extend, records)
            _keep_accumulation(workdir, before, config)
        else:
            check_nothing_to_extend(workdir, extend)
        if jax.process_index() == 0:
            _remove_leftovers(workdir, before, config)
            write_text(config_file, config.to_json(indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot use the work directory {workdir} ({error}): type --workdir=DIR with a folder that "
            "can be written to"
        ) from error
    return workdir


def in_use(workdir: Path) -> bool:
    """Return whether a work directory holds metrics or a checkpoint."""
    metrics = workdir / "metrics.jsonl"
    return has_checkpoint(workdir) or (metrics.exists() and metrics.stat().st_size > 0)


@contextlib.contextmanager
def removed_if_refused(workdir: str | Path) -> Iterator[None]:
    """Remove a work directory that a start has made, if the start is refused before its first metrics.

    A folder that was there before, that another process uses, or with a file that users may need, such as
    the list of undecodable images, stays.
    """
    workdir = Path(workdir)
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        yield
    except UserError:
        if made and workdir.is_dir() and jax.process_index() == 0:
            _remove_unused(workdir)
            remove_empty(made[1:])
        raise


def _remove_unused(workdir: Path) -> None:
    """Remove the files of a start, and the folder, if it holds nothing else and no process its lock."""
    if in_use(workdir) or not {path.name for path in workdir.iterdir()} <= OF_A_START:
        return
    with contextlib.suppress(OSError), (workdir / LOCK_FILE).open("a") as file:
        if try_lock(file):
            shutil.rmtree(workdir)


def _remove_leftovers(workdir: Path, before: Mapping | None, config: Any) -> None:
    """Remove the files of another config's start that ended before its first metrics."""
    if before is not None and not in_use(workdir) and differences(before, config):
        for name in ("baselines.json", ACCUMULATION_FILE):
            (workdir / name).unlink(missing_ok=True)


def _keep_accumulation(workdir: Path, before: Mapping, config: Any) -> None:
    """Keep numbers of micro-batches where the config of the run had them and the new one says AUTO."""
    old = config_from_dict(before)
    pairs = [
        (at_stage(old, stage).schedule.accumulation, at_stage(config, stage).schedule.accumulation)
        for stage in range(stage_count(old))
    ]
    numbers = {stage: was for stage, (was, now) in enumerate(pairs) if was != AUTO and now == AUTO}
    if numbers and jax.process_index() == 0:
        keep_accumulation(workdir, numbers)


def _check_same(workdir, before, config, extend, records):
    changed = differences(before, config)
    if only_length(changed):
        check_extension(workdir, config_from_dict(before), config, records, extend, _shown(changed))
    elif changed:
        raise UserError(
            f"{workdir} was started with another config ({_shown(changed)}): resume with the old values, "
            "or type another --workdir"
        )


def _shown(changed):
    shown = "; ".join(f"config.{key} was {old}, is {new}" for key, old, new in changed[:8])
    return shown + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
