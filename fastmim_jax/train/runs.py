"""What a run has left behind, for those who go on from it: its config and the parameters of a step."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.saved_config import config_from_dict
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.sharding import make_mesh, replicated

BEST = "best"  # beside "checkpoints", where a run has kept the best of its evaluations


class LoadedRun(NamedTuple):
    """path: of the checkpoint. config: with all keys. variables: {"params": nested, ...}, arrays that every
    device holds whole; the moving averages, where there are any."""

    workdir: Path
    path: Path
    config: Any
    step: int
    variables: dict


def read_config(workdir):
    """The config of a work directory.

    Raises:
      UserError: it is none.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} has no config.json: expected the --workdir of a run of fastmim")
    try:
        return config_from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the config of a run") from error


def load_run(path, step=None):
    """Reads the parameters of a run.

    Args:
      path: a work directory, or one checkpoint in it, such as DIR/checkpoints/800.
      step: which checkpoint of a work directory; None for its best, or else its newest.

    Raises:
      UserError: nothing of the kind there.
    """
    path = Path(path).expanduser()
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
            raise UserError(f"{workdir} holds no checkpoint yet: let the run go on until its first one")
        found = checkpoints.read_params(step, replicated(make_mesh(devices=jax.devices())))
    chosen = found.get("average") or found
    variables = {"params": chosen["params"], **chosen["collections"]}
    return LoadedRun(workdir, folder / str(step), read_config(workdir), step, variables)
