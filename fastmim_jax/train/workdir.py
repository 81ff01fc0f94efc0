"""The work directory of a run: its config, and whether another start may use it."""

import json
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.io import write_text
from fastmim_jax.saved_config import differences


def prepare_workdir(workdir: str | Path, config: Any) -> Path:
    """Make the work directory, or check that the config in it agrees.

    Raises:
      UserError: it cannot be written to, or holds another config (the message names the keys).
    """
    workdir = Path(workdir)
    config_file = workdir / "config.json"
    if (workdir / "conversion.json").exists():
        raise UserError(
            f"{workdir} holds a converted checkpoint, which has no training to resume: type "
            f"--config.init={workdir} and another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if config_file.exists():
            _check_same(workdir, json.loads(config_file.read_text()), config)
        if jax.process_index() == 0:
            write_text(config_file, config.to_json(indent=2) + "\n")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"cannot use the work directory {workdir} ({error}): type --workdir=DIR with a folder that "
            "can be written to"
        ) from error
    return workdir


def _check_same(workdir, before, config):
    changed = differences(before, config)
    if changed:
        shown = "; ".join(f"config.{key} was {old}, is {new}" for key, old, new in changed[:8])
        more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise UserError(
            f"{workdir} was started with another config ({shown}{more}): resume with the old values, or "
            "type another --workdir"
        )
