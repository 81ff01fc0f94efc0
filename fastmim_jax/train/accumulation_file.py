"""The file of a work directory with the numbers of micro-batches that a run has chosen."""

from pathlib import Path
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.train.stage import TrainStage

FILE = "accumulation.json"


def keep_accumulation(workdir: Path, numbers: dict[int, int]) -> None:
    """Keep the numbers {stage: micro-batches} of a run whose config will say AUTO."""
    if not (workdir / FILE).exists():
        entries = {str(s): {"accumulation": number, "machine": None} for s, number in numbers.items()}
        write_json(workdir / FILE, entries)


def read_accumulation(workdir: Path) -> dict[str, dict[str, Any]]:
    """Return {stage: {"accumulation": number, "machine": list or None}} that a run has chosen.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    path, expected = workdir / FILE, "the numbers of micro-batches of a run: delete it"
    if not path.exists():
        return {}
    saved = read_json(path, dict, expected)
    for entry in saved.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("accumulation"), int):
            raise UserError(f"{path} cannot be read (it holds other values), expected {expected}")
    return saved


def read_number(workdir: Path, stage: TrainStage) -> int | None:
    """Return the number that the run has chosen for a stage on such a machine, or None."""
    entry = read_accumulation(workdir).get(str(stage.plan.stage))
    return entry["accumulation"] if entry and entry.get("machine") in (None, _machine(stage)) else None


def write_number(workdir: Path, stage: TrainStage, number: int) -> None:
    """Keep the number that the run has chosen for a stage, on the first process."""
    if jax.process_index() == 0:
        saved = read_accumulation(workdir)
        saved[str(stage.plan.stage)] = {"accumulation": number, "machine": _machine(stage)}
        write_json(workdir / FILE, saved)


def _machine(stage: TrainStage) -> list[Any]:
    """Return what a chosen number depends on."""
    device = stage.mesh.devices.flat[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return [device.device_kind, stage.plan.devices, (stats or {}).get("bytes_limit", 0)]
