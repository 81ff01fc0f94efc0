"""Memory: of the devices, and as much of it as a compiled program needs."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fastmim_jax.data.host import address_space, free_memory
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.out_of_memory import is_out_of_memory

GB = 1e9
USABLE = 0.9  # share of the free memory for a chosen program; the rest is for what is not counted


def free_bytes(mesh: jax.sharding.Mesh) -> int | None:
    """Return the bytes that are free on the fullest device of this process; None if unknown.

    CPU devices share the memory of the host.
    """
    local = [device for device in mesh.devices.ravel() if device.process_index == jax.process_index()]
    if local[0].platform == "cpu":
        free, addresses = free_memory(), address_space()
        if addresses is not None:  # a dispatched step has its addresses while the one before it still runs
            free = addresses // 2 if free is None else min(free, addresses // 2)
        return None if free is None else free // len(local)
    stats = [device.memory_stats() or {} for device in local]
    free_on_devices = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
    return min(free_on_devices, default=None)


def program_bytes(program: jax.stages.Compiled) -> int | None:
    """Return the bytes of one device that a program needs while it runs; None on platforms without it.

    Donated arguments are counted once.
    """
    plan = program.memory_analysis()
    if plan is None:
        return None
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes + plan.generated_code_size_in_bytes


def compiled_bytes(function: OnMesh, *args: Any) -> float:
    """Compile a function and return the bytes that its program needs, see `program_bytes`.

    The most of all processes; 0 if unknown, infinite if the program is too large to be compiled.
    """
    need = math.inf
    try:
        need = program_bytes(function.compile(*args)) or 0
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return largest_of_processes(need)


def largest_of_processes(value: float) -> float:
    """Return the largest value of all processes, which have to choose alike."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.float64(value)).max())


def argument_bytes(tree: Any) -> int:
    """Return the bytes of arrays or ShapeDtypeStructs on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def reading_bytes(batch: Any, mesh: jax.sharding.Mesh) -> int:
    """Return the bytes of the batches that wait for their turn, in the memory of a mesh's devices.

    Only CPUs share their memory with the reader of the images.
    """
    return 4 * argument_bytes(batch) if mesh.devices.flat[0].platform == "cpu" else 0


def describe_bytes(count: float) -> str:
    """Return a number of bytes such as "7.1 GB"."""
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 1e6:,.1f} MB"
