"""Shardings: the mesh, the rule for parameters, and the batch.

The batch is split over all devices, parameters over the "fsdp" axis alone, and the optimizer state over
that axis or over all devices.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fastmim_jax.models.device import BATCH_AXES

SMALLEST_SHARDED = 1024  # elements; smaller arrays are replicated


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a (devices/fsdp, fsdp) mesh named ("data", "fsdp"), over all devices of all processes."""
    count = len(devices or jax.devices())
    kinds = (AxisType.Auto,) * len(BATCH_AXES)
    return jax.make_mesh((count // fsdp, fsdp), BATCH_AXES, axis_types=kinds, devices=devices)


def state_shardings(tree: Any, mesh: Mesh, axes: tuple[str, ...] = ("fsdp",)) -> Any:
    """Return a sharding per array (or ShapeDtypeStruct): its largest divisible axis over axes of the mesh.

    It depends on the shape alone, so the optimizer's moments are sharded like their parameters. Vectors
    (biases, scales of norms) are replicated: they are few, and a collective of its own costs more.

    Args:
      axes: of the mesh, see `optimizer_axes`. An array that they do not divide is split over the first.
    """

    def sharding(leaf):
        for count in range(len(axes), 0, -1):
            parts = math.prod(mesh.shape[axis] for axis in axes[:count])
            divisible = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
            if parts > 1 and leaf.ndim > 1 and leaf.size >= SMALLEST_SHARDED and divisible:
                largest = max(divisible, key=lambda axis: leaf.shape[axis])
                return NamedSharding(mesh, PartitionSpec(*[None] * largest, axes[:count]))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding, tree)


def optimizer_axes(shard_optimizer_state: bool) -> tuple[str, ...]:
    """Return the mesh axes of the optimizer state: those of the parameters, or all of them (ZeRO-1).

    Source: arXiv 1910.02054 (ZeRO stage 1), arXiv 2004.13336 (weight-update sharding).
    """
    return ("fsdp", "data") if shard_optimizer_state else ("fsdp",)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of any array whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def owned_rows(sharding: NamedSharding, batch_size: int, process: int | None = None) -> np.ndarray:
    """Return the ascending rows of a global batch that the devices of a process (default: this one) hold.

    They need not be contiguous on a physically laid-out mesh, so they are read from the sharding.
    """
    process = jax.process_index() if process is None else process
    indices = sharding.devices_indices_map((batch_size,))
    mine = [
        rows
        for device, (rows,) in indices.items()
        if device.process_index == process  # type: ignore[attr-defined]  # jaxlib.Device has no stub
    ]
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in mine]))


def to_devices(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, batch_size: int
) -> dict[str, jax.Array]:
    """Turn {name: rows of this process} into {name: global array of `batch_size` rows}, without waiting."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in batch.items()
    }
