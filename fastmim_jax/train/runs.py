"""Load the config and the parameters of a run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json
from fastmim_jax.paths import place
from fastmim_jax.run_folder import BEST, CHECKPOINTS, find_checkpoint
from fastmim_jax.saved_config import config_from_dict, config_key, find_mismatch, override
from fastmim_jax.train.checkpoint import Checkpoints, describe_damage
from fastmim_jax.train.remote.reading import local_run
from fastmim_jax.train.sharding import make_mesh, replicated
from fastmim_jax.validate import check_values

_LOG = logging.getLogger(__name__)
# Keys that an evaluation may set: how images are read, by which resources.
READING = (
    *("run.workers", "run.threads", "run.max_worker_restarts", "run.verify_checkpoints"),
    *("data.max_pixels", "data.value_range", "data.nodata", "data.max_bad_share"),
    *("data.eval_resize", "data.eval_mode", "data.eval_stride"),
)


class LoadedRun(NamedTuple):
    """A checkpoint of a run.

    Attributes:
      workdir: of the run.
      path: of the checkpoint.
      config: of the run, with all keys.
      step: of the checkpoint.
      stage: of the run, in which the checkpoint was written, from 0.
      variables: {"params": nested, ...}, replicated arrays; the moving averages, where there are any.
    """

    workdir: Path
    path: Path
    config: Any
    step: int
    stage: int
    variables: dict


def read_config(workdir: str | Path) -> Any:
    """Return the config of a work directory.

    Raises:
      UserError: it has no config, or one that cannot be read.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} has no config.json: expected the --workdir of a run of fastmim")
    return config_from_dict(read_saved_config(workdir))


def read_saved_config(workdir: str | Path) -> dict[str, Any]:
    """Return config.json of a work directory as it was saved, a nested dict.

    Raises:
      UserError: it cannot be read, or its keys have other types than a config's.
    """
    expected = "the config of a run: restore it from a copy, or resume the run, which rewrites it"
    path = Path(workdir) / "config.json"
    saved = read_json(path, dict, expected)
    mismatch = find_mismatch(saved)
    if mismatch:
        raise UserError(f"{path} cannot be read ({mismatch}), expected {expected}")
    return saved


def read_classes(workdir: str | Path, outputs: int | None = None) -> tuple[str, ...]:
    """Return the names of the classes of a fine-tuned run; outputs: of its head, one a class.

    Raises:
      UserError: classes.json cannot be read, or holds something else.
    """
    path = Path(workdir) / "classes.json"
    expected = (
        "the names of the classes of a run: restore it from a copy, or resume the run, which rewrites it"
    )
    names = read_json(path, list, expected)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} cannot be read (it holds no names), expected {expected}")
    if outputs is not None and outputs != len(names):
        raise UserError(f"{path} holds {len(names):,} names for {outputs:,} outputs, expected {expected}")
    return tuple(names)


def count_outputs(variables: Mapping) -> int | None:
    """Return the number of outputs of the head of a classifier, or None without one."""
    kernel = variables["params"].get("head", {}).get("kernel")
    return None if kernel is None else kernel.shape[-1]


def load_run(
    path: str | Path,
    step: int | None = None,
    devices: list | None = None,
    settings: Sequence[str] = (),
) -> LoadedRun:
    """Read the config and the parameters of a run.

    Args:
      path: a work directory, or one checkpoint in it, such as DIR/checkpoints/800, see `find_checkpoint`;
        or the address of one, such as gs://bucket/run, which is fetched into this machine's cache.
      step: of a checkpoint in a work directory; None for its best one, or else its newest.
      devices: to hold the parameters; None for all.
      settings: "KEY=VALUE" of how images are read, see READING; they replace those of the run.

    Damaged checkpoints are named and passed over; one that is asked for by its step is refused.

    Raises:
      UserError: there is no such checkpoint, or none that is whole; or another setting.
    """
    found = find_checkpoint(local_run(place(path), step))
    workdir, best = found.workdir, found.workdir / BEST
    step = found.step if step is None else step
    folder = found.folder or (best if step is None and best.exists() else workdir / CHECKPOINTS)
    config = _with_settings(read_config(workdir), settings)
    folder, step = _choose(workdir, folder, step, verify=config.run.verify_checkpoints)
    with Checkpoints(folder) as checkpoints:
        arrays = checkpoints.read_params(step, replicated(make_mesh(devices=devices or jax.devices())))
        stage = checkpoints.position(step).get("stage", 0)
    evaluated = arrays.get("average") or arrays
    variables = {"params": evaluated["params"], **evaluated["collections"]}
    return LoadedRun(workdir, folder / str(step), config, step, stage, variables)


def _with_settings(config: Any, settings: Sequence[str]) -> Any:
    """Return a config with settings of READING, checked."""
    for setting in settings:
        key = config_key(setting)
        if not key.startswith(READING):
            raise UserError(
                f"--set={setting} is no setting of how images are read; choose from: {', '.join(READING)}"
            )
    if settings:
        override(config, settings)
        check_values(config)
    return config


def _choose(workdir: Path, folder: Path, step: int | None, verify: bool) -> tuple[Path, int]:
    """Return the folder and the step of the checkpoint to load, whole ones only; name the damaged ones."""
    with Checkpoints(folder, verify=verify) as checkpoints:
        if step is not None:
            checkpoints.check_whole(step)
            return folder, step
        found = checkpoints.find_whole()
    for line in describe_damage(folder, found):
        _LOG.warning(line)
    if found.step is not None:
        return folder, found.step
    if folder.name == BEST:
        _LOG.warning(f"{folder} holds no whole checkpoint: the newest of the run is used")
        return _choose(workdir, workdir / CHECKPOINTS, None, verify)
    if found.damaged:
        raise UserError(f"no checkpoint in {folder} is whole: train again, or restore it from a copy")
    raise UserError(f"{workdir} holds no checkpoint yet: wait until the run has written its first")
