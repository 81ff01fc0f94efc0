"""Memory: of the devices, and as much of it as a compiled program needs."""

import jax

from fastmim_jax.data.host import address_space, free_memory

GB = 1e9


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


def describe_bytes(count: float) -> str:
    """Return a number of bytes such as "7.1 GB"."""
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 1e6:,.1f} MB"
