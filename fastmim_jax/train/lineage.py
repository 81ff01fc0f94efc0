"""The lineage of a run: the runs before it, and the weights that they began from, in lineage.json."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.saved_config import find_mismatch
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.warm_start import has_checkpoint

FILE = "lineage.json"
CONVERSION = "conversion.json"  # of a work directory that `fastmim convert` wrote
LOOP = "config.init leads back to a run that began from this one"
GONE = f"their folder is gone, and the run that began there is older than {FILE}"
UNREADABLE = f"its {FILE} cannot be read"


class Ancestor(NamedTuple):
    """A run that another one began from.

    Attributes:
      config: nested dict; {} for one that cannot be read.
      step: of the checkpoint, None if it is not known.
    """

    config: dict[str, Any]
    step: int | None = None


class Lineage(NamedTuple):
    """The runs before a run, and what the first of them began from.

    Attributes:
      runs: the newest first.
      origin: {"source", "format"} of converted weights; {"source", maybe "problem"} if their origin is
        lost; {} for weights initialised at random.
    """

    runs: list[Ancestor]
    origin: dict[str, Any]


def record_lineage(workdir: str | Path, loaded: LoadedRun | None) -> None:
    """Write lineage.json of a run that starts, so that it is known after the other run is deleted.

    Args:
      workdir: of the run; with a checkpoint it is resumed, and the file stays as it is.
      loaded: the run to start from; None for random parameters.
    """
    if loaded is not None:
        write_lineage(workdir, lineage_with(loaded.workdir, loaded.config, loaded.step))
    elif not has_checkpoint(workdir):
        (Path(workdir) / FILE).unlink(missing_ok=True)


def lineage_with(workdir: Path, config: Any, step: int | None) -> Lineage:
    """Return the lineage of what begins from a run; the run is the first of it, unless it was converted."""
    lineage = read_lineage(workdir, config)
    if (workdir / CONVERSION).exists():
        return lineage
    return lineage._replace(runs=[Ancestor(json.loads(config.to_json()), step), *lineage.runs])


def write_lineage(workdir: str | Path, lineage: Lineage) -> None:
    """Write lineage.json."""
    runs = [run._asdict() for run in lineage.runs]
    write_json(Path(workdir) / FILE, {"runs": runs, "origin": lineage.origin})


def read_lineage(workdir: Path, config: Mapping[str, Any] | None = None) -> Lineage:
    """Return the lineage of a run: lineage.json, or what is found by following `config.init`.

    Args:
      config: of the run; None for that of its work directory.
    """
    runs: list[Ancestor] = []
    seen: set[str] = set()
    current: Mapping[str, Any] = _read_object(workdir / "config.json") if config is None else config
    while True:
        if (workdir / FILE).exists():
            before = _read(workdir / FILE)
            return Lineage([*runs, *before.runs], before.origin)
        if (workdir / CONVERSION).exists():
            return Lineage(runs, _conversion(workdir))
        seen.add(os.path.realpath(workdir))
        source = current.get("init", "")
        if not source or not isinstance(source, str):
            return Lineage(runs, {})
        path = Path(source).expanduser()
        workdir, step = (path.parent.parent, int(path.name)) if path.name.isdecimal() else (path, None)
        if not (workdir / "config.json").exists():
            return Lineage(runs, {"source": source, "problem": GONE})
        if os.path.realpath(workdir) in seen:
            return Lineage(runs, {"source": source, "problem": LOOP})
        current = _read_object(workdir / "config.json")
        if not current:
            return Lineage(runs, {"source": source, "problem": "config.json cannot be read"})
        if not (workdir / CONVERSION).exists():
            runs.append(Ancestor({} if find_mismatch(current) else dict(current), step))


def _conversion(workdir: Path) -> dict[str, Any]:
    conversion = _read_object(workdir / CONVERSION)
    known = {key: conversion.get(key) for key in ("source", "format")}
    if all(isinstance(x, str) for x in known.values()):
        return known
    return {"source": str(workdir), "problem": f"{CONVERSION} cannot be read"}


def _read(path: Path) -> Lineage:
    """Return the content of lineage.json; a damaged one is an origin that is lost."""
    content = _read_object(path)
    runs, origin = content.get("runs"), content.get("origin")
    if isinstance(runs, list) and isinstance(origin, dict):
        if all(isinstance(x, str) for x in origin.values()):
            return Lineage([_ancestor(run) for run in runs], origin)
    return Lineage([], {"source": str(path.parent), "problem": UNREADABLE})


def _ancestor(run: Any) -> Ancestor:
    values = run if isinstance(run, dict) else {}
    config, step = values.get("config"), values.get("step")
    known = config if isinstance(config, dict) and not find_mismatch(config) else {}
    return Ancestor(known, step if isinstance(step, int) else None)


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; {} for one that cannot be read."""
    try:
        return read_json(path, dict, "a config, a conversion or a lineage")
    except UserError:
        return {}
