"""Local paths in what leaves this machine: left out of configs and notes, unless they are asked for."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from fastmim_jax.config import PATH_KEYS

LOCAL = re.compile(r"^(~|/|[A-Za-z]:[\\/])|\w://")  # start of a path, or a bucket


def without_paths(config: ConfigDict) -> ConfigDict:
    """Return a copy of a config with "" for every path."""
    return ConfigDict(_without(config.to_dict(), ""))


def _without(values: dict, prefix: str) -> dict:
    cleaned = {}
    for key, x in values.items():
        name = f"{prefix}{key}"
        is_path = isinstance(x, str) and (name in PATH_KEYS or LOCAL.search(x))
        cleaned[key] = _without(x, f"{name}.") if isinstance(x, dict) else "" if is_path else x
    return cleaned


def shown_source(path: str | Path, origin: str = "") -> str:
    """Return what may be said of a source: the name of a file, or the step of a run.

    origin: of a checkpoint of ours, "PATH, step N"; "" for another library's file or folder.
    """
    if origin:
        return f"a run of fastmim_jax{''.join(origin.rpartition(', step ')[1:])}"
    return Path(path).name if Path(path).is_file() else "a folder"
