"""Load the config and the parameters of a run."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path
from fastmim_jax.saved_config import config_from_dict
from fastmim_jax.train.checkpoint import Checkpoints, describe_damage
from fastmim_jax.train.sharding import make_mesh, replicated

_LOG = logging.getLogger(__name__)
BEST = "best"  # folder beside "checkpoints" with the checkpoint of the best evaluation


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
    try:
        return config_from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the config of a run") from error


def load_run(path: str | Path, step: int | None = None, devices: list | None = None) -> LoadedRun:
    """Read the config and the parameters of a run.

    Args:
      path: a work directory, or one checkpoint in it, such as DIR/checkpoints/800.
      step: of a checkpoint in a work directory; None for its best one, or else its newest.
      devices: to hold the parameters; None for all.

    Damaged checkpoints are named and passed over; one that is asked for by its step is refused.

    Raises:
      UserError: there is no such checkpoint, or none that is whole.
    """
    path = Path(local_path(path))
    if path.name.isdigit() and (path.parent.parent / "config.json").exists():
        workdir, folder, step = path.parent.parent, path.parent, int(path.name)
    elif (path / "config.json").exists():
        workdir, best = path, path / BEST
        folder = best if step is None and best.exists() else path / "checkpoints"
    elif path.is_file():
        raise UserError(
            f"{path} is a file: type fastmim convert {path} {path.with_suffix('')}, and give that folder"
        )
    else:
        seen = "has no config.json" if path.exists() else "does not exist"
        raise UserError(
            f"{path} {seen}: expected the --workdir of a run, or one of its checkpoints such as "
            f"{path}/checkpoints/1000"
        )
    config = read_config(workdir)
    folder, step = _choose(workdir, folder, step, verify=config.run.verify_checkpoints)
    with Checkpoints(folder) as checkpoints:
        arrays = checkpoints.read_params(step, replicated(make_mesh(devices=devices or jax.devices())))
        stage = checkpoints.position(step).get("stage", 0)
    evaluated = arrays.get("average") or arrays
    variables = {"params": evaluated["params"], **evaluated["collections"]}
    return LoadedRun(workdir, folder / str(step), config, step, stage, variables)


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
        return _choose(workdir, workdir / "checkpoints", None, verify)
    if found.damaged:
        raise UserError(f"no checkpoint in {folder} is whole: train again, or restore it from a copy")
    raise UserError(f"{workdir} holds no checkpoint yet: wait until the run has written its first")
