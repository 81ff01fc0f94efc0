"""Memory: of the devices, and as much of it as a compiled program needs."""

import re
import resource
from pathlib import Path

import jax

GB = 1e9
# Address space that threads reserve and never touch; it counts where `ulimit -v` is set.
RESERVED_BY_THREADS = int(1.5 * GB)


def free_bytes(mesh: jax.sharding.Mesh) -> int | None:
    """Return the bytes that are free on the fullest device of this process; None if unknown.

    CPU devices share the memory of the host.
    """
    local = [device for device in mesh.devices.ravel() if device.process_index == jax.process_index()]
    if local[0].platform == "cpu":
        free = free_host_bytes()
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


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still allocate; None if unknown.

    It is the least of what the host has available, of what the control groups (versions 1 and 2) of this
    process leave, and of what `ulimit -v` leaves.

    Args:
      root: the folder that holds proc/ and sys/.
    """
    limits = [_available(root / "proc/meminfo"), *_left_in_groups(root), _address_space(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _available(meminfo: Path) -> int | None:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _left_in_groups(root: Path) -> list[int | None]:
    """Return what every control group of this process leaves, from its own up to the root's."""
    mount, left = root / "sys/fs/cgroup", list[int | None]()
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = mount / "memory" if controllers else mount
        names = _V1 if controllers else _V2
        group = Path(path.lstrip("/"))
        left += [_left_in(top / folder, *names) for folder in (group, *group.parents)]
    return left


# Files of a control group: its limit, its use, and the line of memory.stat with files that can be dropped.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left_in(group: Path, limit_file: str, use_file: str, cache_line: str) -> int | None:
    limit, use = _read(group / limit_file).strip(), _read(group / use_file).strip()
    if not (limit.isdigit() and use.isdigit()):  # "max": no limit
        return None
    cache = re.search(rf"^{cache_line} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(use) + (int(cache[1]) if cache else 0))


def _address_space(root: Path) -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(root / "proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    left = limit - int(pages[0]) * resource.getpagesize() - RESERVED_BY_THREADS
    return max(0, left // 2)  # a dispatched step has its addresses while the one before it still runs


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def describe_bytes(count: float) -> str:
    """Return a number of bytes such as "7.1 GB"."""
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 1e6:,.1f} MB"
