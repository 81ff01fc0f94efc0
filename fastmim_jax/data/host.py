"""The memory and the CPU time that the host, its control groups and `ulimit` leave to this process."""

import math
import re
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # of proc/ and sys/
# Address space that threads reserve and never touch; it counts where `ulimit -v` is set.
RESERVED_BY_THREADS = 1_500_000_000

# Files of a control group, versions 2 and 1: its limit, its use, and the line of memory.stat with files in
# memory that can be dropped.
_MEMORY = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_CPU = {2: ("cpu.max",), 1: ("cpu.cfs_quota_us", "cpu.cfs_period_us")}


def free_memory(root: Path = ROOT) -> int | None:
    """Return the bytes that this process may still allocate; None if unknown.

    It is the least of what the host has available, of what the control groups of this process leave, and of
    `address_space`.
    """
    groups = [_left_in(group, *_MEMORY[version]) for version, group in _groups("memory", root)]
    limits = [_available(root / "proc/meminfo"), *groups, address_space(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def address_space(root: Path = ROOT) -> int | None:
    """Return the bytes that `ulimit -v` leaves beside RESERVED_BY_THREADS; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(root / "proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - int(pages[0]) * resource.getpagesize() - RESERVED_BY_THREADS)


def cpu_quota(root: Path = ROOT) -> float:
    """Return the CPUs that the control groups of this process allow; infinite without a limit."""
    return min((_quota(group, _CPU[version]) for version, group in _groups("cpu", root)), default=math.inf)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of every control group of this process, from its own up to the root's.

    A container may show the paths of the host, of which only the root's exists in it.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        top = mount / controller if controllers else mount
        yield from ((1 if controllers else 2, top / folder) for folder in (group, *group.parents))


def _available(meminfo: Path) -> int | None:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _left_in(group: Path, limit_file: str, use_file: str, cache_line: str) -> int | None:
    limit, use = _read(group / limit_file).strip(), _read(group / use_file).strip()
    if not (limit.isdigit() and use.isdigit()):  # "max": no limit
        return None
    cache = re.search(rf"^{cache_line} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(use) + (int(cache[1]) if cache else 0))


def _quota(group: Path, files: tuple[str, ...]) -> float:
    words = " ".join(_read(group / name) for name in files).split()
    if len(words) != 2 or not all(word.isdigit() for word in words):  # "max", "-1" or no file: no limit
        return math.inf
    return int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
