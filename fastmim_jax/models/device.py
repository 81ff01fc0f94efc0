"""The devices that a function is traced for: those of the mesh that is set, see `jax.set_mesh`."""

import math
from collections.abc import Callable
from typing import Any

import jax

BATCH_AXES = ("data", "fsdp")  # mesh axes over which the batch is split


def on_nvidia_gpu() -> bool:
    """Return whether the mesh holds NVIDIA GPUs."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "gpu" and "NVIDIA" in device.device_kind


def batch_axes() -> tuple[str, ...]:
    """Return the axes of the mesh that is set over which a batch is split."""
    return tuple(axis for axis in BATCH_AXES if axis in jax.sharding.get_abstract_mesh().axis_names)


def batch_parts() -> int:
    """Return the number of parts, one on each device, in which a batch is split."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)


def per_device(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Return a function that runs on each device's part of the batch: XLA cannot partition a kernel."""
    if not batch_axes():
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
