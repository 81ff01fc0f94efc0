"""The devices that a function is traced for: those of the mesh that is set, see `jax.set_mesh`.

Inside `jax.shard_map` a function sees one shard of the batch. Whatever depends on the whole batch, such as
a sum over all its images, is computed by the functions here; outside, the only shard is the batch itself.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Shaped

from fastmim_jax.models.typing import Array

BATCH_AXES = ("data", "fsdp")  # mesh axes over which the batch is split


def on_nvidia_gpu() -> bool:
    """Return whether the mesh holds NVIDIA GPUs."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "gpu" and "NVIDIA" in device.device_kind


def batch_axes() -> tuple[str, ...]:
    """Return the axes of the mesh that is set over which a batch, or a shard of it, is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names and axis not in mesh.manual_axes)


def batch_parts() -> int:
    """Return the number of parts, one on each device, in which a batch, or a shard of it, is split."""
    return _size(batch_axes())


def shard_axes() -> tuple[str, ...]:
    """Return the axes of the mesh along which shards of the batch follow each other; () outside of them."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(axis for axis in BATCH_AXES if axis in manual)


def shard_count() -> int:
    """Return the number of shards of the batch."""
    return _size(shard_axes())


def shard_index() -> Array | int:
    """Return the place of this shard in the batch."""
    axes = shard_axes()
    return jax.lax.axis_index(axes) if axes else 0


def sum_over_shards(x: Shaped[Array, " *shape"]) -> Shaped[Array, " *shape"]:
    """Return the sum of the arrays x of all shards."""
    axes = shard_axes()
    return jax.lax.psum(x, axes) if axes else x


def rows_of_shard(draw: Callable[[int], Array], rows: int, axis: int = 0) -> Array:
    """Return this shard's rows of an array that is drawn for the whole batch.

    Args:
      draw: number of rows -> array with so many along `axis`; the same on every shard.
      rows: of this shard.
    """
    drawn = draw(rows * shard_count())
    return jax.lax.dynamic_slice_in_dim(drawn, shard_index() * rows, rows, axis) if shard_axes() else drawn


def _size(axes: tuple[str, ...]) -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)


def per_device(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Return a function that runs on each device's part of the batch: XLA cannot partition a kernel."""
    if not batch_axes():
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
