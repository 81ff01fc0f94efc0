"""Shardings: the mesh, the rule for parameters, and the batch.

The batch is split over all devices, parameters over the "fsdp" axis alone, and the optimizer state over
that axis or over all devices.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fastmim_jax.errors import UserError
from fastmim_jax.models.device import BATCH_AXES

SMALLEST_SHARDED = 1024  # elements; smaller arrays are replicated
SPLIT_AXES = ("TPU v5 lite", "TPU v5e")  # kinds of devices


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a (devices/fsdp, fsdp) mesh named ("data", "fsdp"), over all devices of all processes.

    Raises:
      UserError: see `device_grid`.
    """
    kinds = (AxisType.Auto,) * len(BATCH_AXES)
    return Mesh(device_grid(fsdp, devices or jax.devices()), BATCH_AXES, axis_types=kinds)


def device_grid(fsdp: int, devices: Sequence[Any]) -> np.ndarray:
    """Return the devices as (devices/fsdp, fsdp), laid out along their links.

    Devices of a slice (a TPU slice, the GPUs of one NVLink domain) have fast links. Parameters are split
    inside a slice and slices share the batch, unless `fsdp` is a multiple of a slice.

    Args:
      fsdp: devices that share one copy of the parameters; it divides their number.

    Raises:
      UserError: slices of different sizes, or `fsdp` splits a slice unevenly.
    """
    sizes = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(sizes) == 1:
        return _with_splits(mesh_utils.create_device_mesh, (len(devices) // fsdp, fsdp), devices=devices)
    slices, size = len(sizes), min(sizes.values())
    if size != max(sizes.values()):
        numbers = ", ".join(f"{sizes[index]}" for index in sorted(sizes))
        raise UserError(f"the {slices} slices have {numbers} devices: use slices of one size")
    inside, across = math.gcd(fsdp, size), fsdp // math.gcd(fsdp, size)
    if inside not in (fsdp, size):
        raise UserError(
            f"config.run.mesh_fsdp is {fsdp}, which neither divides the {size} devices of a slice nor is a "
            f"multiple of them: type --config.run.mesh_fsdp={inside}"
        )
    return _with_splits(
        mesh_utils.create_hybrid_device_mesh,
        (size // inside, inside),
        (slices // across, across),
        devices=devices,
    )


def _with_splits(create: Callable[..., np.ndarray], *shapes: tuple[int, ...], devices: Sequence) -> Any:
    """Create a grid of devices whose axes are axes of the torus, or split some if there is no other way."""
    # Always split in v5e, as jax.make_mesh does: its slices are small, and a ring needs no whole axis.
    split = devices[0].device_kind in SPLIT_AXES
    try:
        return create(*shapes, devices=devices, allow_split_physical_axes=split)
    except NotImplementedError:
        return create(*shapes, devices=devices, allow_split_physical_axes=True)


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


def local_devices(mesh: Mesh) -> list[jax.Device]:
    """Return the devices of a mesh that belong to this process."""
    return [device for device in mesh.devices.flat if device.process_index == jax.process_index()]


def localize(tree: Any, mesh: Mesh) -> Any:
    """Return arrays of the devices of all processes as copies on a mesh of devices of this process."""
    everywhere = replicated(jax.tree.leaves(tree)[0].sharding.mesh)
    full = jax.jit(lambda leaves: leaves, out_shardings=everywhere)(tree)
    if jax.process_count() > 1:
        full = jax.tree.map(lambda leaf: leaf.addressable_data(0), full)
    return jax.device_put(full, replicated(mesh))
