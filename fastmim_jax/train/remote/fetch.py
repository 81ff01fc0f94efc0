"""Fetch a run from an object store: its small files, and its newest whole checkpoints."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from fastmim_jax.errors import UserError
from fastmim_jax.stores.cache import check_space
from fastmim_jax.stores.store import Object, Store
from fastmim_jax.stores.transfer import check_names, describe_size, download_all
from fastmim_jax.train import checksums
from fastmim_jax.train.remote.layout import (
    FOLDERS,
    Checkpoint,
    checkpoints_of,
    is_small,
    is_whole,
    local_checkpoints,
)

Log = Callable[[str], None]
_DRAWN = (
    "tensorboard/",
    "pictures/",
    "wandb/",
    "mlflow/",
)  # folders that resuming needs to add to, and reading does not need


def fetch_small_files(store: Store, objects: Mapping[str, Object], folder: Path, reading: bool) -> None:
    """Copy the small files of a run over those of a folder.

    Args:
      objects: of the store.
      reading: the run is not resumed: its pictures and TensorBoard files are left out.

    Raises:
      StoreError, UserError: see `download_all`.
    """
    small = {name: x for name, x in objects.items() if is_small(name)}
    if reading:
        small = {name: x for name, x in small.items() if not name.startswith(_DRAWN)}
    check_names(store, small)
    download_all(store, small, lambda name: folder / name, lambda line: None)


def fetch_newest(
    store: Store, objects: Mapping[str, Object], folder: Path, kind: str, log: Log, step: int | None = None
) -> int | None:
    """Copy the newest whole checkpoint of a kind into a folder, and return its step; None without any.

    One that is there with the same sums is not fetched again; `Checkpoints` verifies it later. Unfinished
    ones are passed over, and damaged ones are logged.

    Args:
      objects: of the store.
      kind: one of FOLDERS.
      step: the only one to look at.

    Raises:
      StoreError, UserError: see `download_all`.
    """
    here = local_checkpoints(folder)
    for checkpoint, names in checkpoints_of(objects).items():
        if checkpoint.folder != kind or step not in (None, checkpoint.step):
            continue
        sums = store.read(checkpoint.sums) if checkpoint.sums in names else None
        if sums is None or not is_whole(checkpoint, names, sums):
            continue
        if here.get(checkpoint) == sums:
            return checkpoint.step
        problem = _fetch_checkpoint(store, {x: objects[x] for x in names}, folder, checkpoint, log)
        if not problem:
            return checkpoint.step
        log(f"checkpoint {store.address}/{checkpoint.name} is damaged ({problem}): an older one is fetched")
    return None


def newest_local(folder: Path) -> int | None:
    """Return the newest complete step in checkpoints/ of a folder, or None."""
    return next((x.step for x in local_checkpoints(folder) if x.folder == FOLDERS[0]), None)


def _fetch_checkpoint(
    store: Store, objects: dict[str, Object], folder: Path, checkpoint: Checkpoint, log: Log
) -> str:
    """Copy a checkpoint into a folder, where it appears at once -> what is wrong with it, or ""."""
    check_names(store, objects)
    size = sum(x.size for x in objects.values())
    check_space(store.address, size, folder)
    log(f"fetching {store.address}/{checkpoint.name} ({describe_size(size)}) into {folder}")
    target = folder / checkpoint.name
    temporary = target.with_name(f".fetching-{checkpoint.step}")
    shutil.rmtree(temporary, ignore_errors=True)
    start = len(checkpoint.name) + 1
    download_all(store, objects, lambda name: temporary / name[start:], log)
    problem = checksums.find_damage(temporary)
    if problem:
        shutil.rmtree(temporary, ignore_errors=True)
        return problem
    shutil.rmtree(target, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): free its disk") from error
    return ""
