"""Memory and CPU time by the host, its control groups and `ulimit`."""

import math
import resource

import pytest

from fastmim_jax.data.host import RESERVED_BY_THREADS, address_space, cpu_quota, free_memory

GIB = 2**30


def make_host(root, available, groups, **files):
    """A root folder with proc/ and sys/; files: {path with "__" for "/": text} under sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    meminfo = f"MemTotal:  99999999 kB\nMemAvailable:   {available // 1024} kB\n"
    (root / "proc/meminfo").write_text(meminfo)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_limits_it_is_what_the_host_has_available(tmp_path):
    assert free_memory(make_host(tmp_path, 8 * GIB, "0::/\n")) == 8 * GIB
    assert free_memory(tmp_path / "elsewhere") is None
    assert free_memory() > 0


def test_a_control_group_leaves_less_and_its_cache_counts_as_free(tmp_path):
    files = {
        "a__memory.max": f"{4 * GIB}\n",
        "a__memory.current": f"{3 * GIB}\n",
        "a__memory.stat": f"anon 5\ninactive_file {GIB}\n",
        "a__b__memory.max": "max\n",
        "a__b__memory.current": "7\n",
    }
    assert free_memory(make_host(tmp_path, 8 * GIB, "0::/a/b\n", **files)) == 2 * GIB


def test_a_control_group_of_version_1_too(tmp_path):
    files = {
        "memory__job__memory.limit_in_bytes": str(3 * GIB),
        "memory__job__memory.usage_in_bytes": str(GIB),
        "memory__job__memory.stat": "total_inactive_file 0\n",
    }
    groups = "4:cpu:/job\n3:memory:/job\n"
    assert free_memory(make_host(tmp_path, 8 * GIB, groups, **files)) == 2 * GIB


def test_the_address_space_leaves_less(tmp_path, monkeypatch):
    root = make_host(tmp_path, 8 * GIB, "")
    (root / "proc/self/statm").write_text(f"{GIB // resource.getpagesize()} 5 5 5 0 5 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5 * GIB, 5 * GIB))
    assert free_memory(root) == 4 * GIB - RESERVED_BY_THREADS
    assert address_space(root) == 4 * GIB - RESERVED_BY_THREADS


V1 = "4:cpu,cpuacct:/job\n3:memory:/job\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/slurm/job/step\n", {"slurm__job__cpu.max": "300000 100000"}, 3),  # a group above its own
        ("0::/docker/1f\n", {"cpu.max": "150000 100000"}, 1.5),  # the path is the host's
        (V1, {"cpu__job__cpu.cfs_quota_us": "150000", "cpu__job__cpu.cfs_period_us": "100000"}, 1.5),
        (V1, {"cpu__cpu.cfs_quota_us": "250000", "cpu__cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu__job__cpu.cfs_quota_us": "-1", "cpu__job__cpu.cfs_period_us": "100000"}, math.inf),
        ("", {"cpu.max": "200000 100000"}, 2),  # no /proc
        ("", {}, math.inf),
    ],
)
def test_the_cpu_time_of_control_groups(tmp_path, groups, files, expected):
    assert cpu_quota(make_host(tmp_path, 8 * GIB, groups, **files)) == expected
