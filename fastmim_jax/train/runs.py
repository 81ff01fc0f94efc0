"""Load the config and the parameters of a run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path
from fastmim_jax.saved_config import config_from_dict
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.sharding import make_mesh, replicated

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

    Raises:
      UserError: there is no such checkpoint.
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
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint yet: wait until the run has written its first")
        arrays = checkpoints.read_params(step, replicated(make_mesh(devices=devices or jax.devices())))
        stage = checkpoints.position(step).get("stage", 0)
    evaluated = arrays.get("average") or arrays
    variables = {"params": evaluated["params"], **evaluated["collections"]}
    return LoadedRun(workdir, folder / str(step), read_config(workdir), step, stage, variables)
