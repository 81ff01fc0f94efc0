"""Which device holds what: the mesh, the rule for parameters, and the batch.

The batch is split over all devices; parameters and optimizer state over the "fsdp" axis alone.
"""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fastmim_jax.models.layers import BATCH_AXES

SMALLEST_SHARDED = 1024  # elements; smaller arrays are copied to every device


def make_mesh(fsdp=1, devices=None):
    """A (devices/fsdp, fsdp) mesh named ("data", "fsdp"), over all devices of all processes."""
    count = len(devices or jax.devices())
    kinds = (AxisType.Auto,) * len(BATCH_AXES)
    return jax.make_mesh((count // fsdp, fsdp), BATCH_AXES, axis_types=kinds, devices=devices)


def state_shardings(tree, mesh):
    """A sharding per array (or ShapeDtypeStruct) of a tree: its largest axis that divides, over "fsdp".

    It depends on the shape alone, so the moments of the optimizer lie like their parameters.
    """
    fsdp = mesh.shape["fsdp"]

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or leaf.size < SMALLEST_SHARDED or not axes:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(sharding, tree)


def batch_sharding(mesh):
    """The sharding of any array whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def owned_rows(sharding, batch_size, process=None):
    """Ascending rows of a global batch that the devices of a process (this one by default) hold.

    They need not be contiguous on a physically laid-out mesh, so the sharding is asked.
    """
    process = jax.process_index() if process is None else process
    indices = sharding.devices_indices_map((batch_size,))
    mine = [rows for device, (rows,) in indices.items() if device.process_index == process]
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in mine]))


def to_devices(batch, sharding, batch_size):
    """{name: this process's rows} -> {name: global array of `batch_size` rows}, without waiting."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in batch.items()
    }
