"""Shardings: the mesh, the rule for parameters, and the batch.

The batch is split over all devices; parameters and optimizer state over the "fsdp" axis alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fastmim_jax.models.layers import BATCH_AXES

SMALLEST_SHARDED = 1024  # elements; smaller arrays are replicated


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a (devices/fsdp, fsdp) mesh named ("data", "fsdp"), over all devices of all processes."""
    count = len(devices or jax.devices())
    kinds = (AxisType.Auto,) * len(BATCH_AXES)
    return jax.make_mesh((count // fsdp, fsdp), BATCH_AXES, axis_types=kinds, devices=devices)


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """Return a sharding per array (or ShapeDtypeStruct): its largest divisible axis over "fsdp".

    It depends on the shape alone, so the optimizer's moments are sharded like their parameters.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or leaf.size < SMALLEST_SHARDED or not axes:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(sharding, tree)


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
