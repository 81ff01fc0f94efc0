"""Memory of the host, of its control groups and of compiled programs."""

import resource

import jax
import jax.numpy as jnp

from fastmim_jax.train import memory
from fastmim_jax.train.memory import describe_bytes, free_bytes, free_host_bytes, program_bytes
from fastmim_jax.train.sharding import make_mesh

GIB = 2**30


def host(root, available, groups, **files):
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
    assert free_host_bytes(host(tmp_path, 8 * GIB, "0::/\n")) == 8 * GIB
    assert free_host_bytes(tmp_path / "elsewhere") is None
    assert free_host_bytes() > 0


def test_a_control_group_leaves_less_and_its_cache_counts_as_free(tmp_path):
    files = {
        "a__memory.max": f"{4 * GIB}\n",
        "a__memory.current": f"{3 * GIB}\n",
        "a__memory.stat": f"anon 5\ninactive_file {GIB}\n",
        "a__b__memory.max": "max\n",
        "a__b__memory.current": "7\n",
    }
    assert free_host_bytes(host(tmp_path, 8 * GIB, "0::/a/b\n", **files)) == 2 * GIB


def test_a_control_group_of_version_1_too(tmp_path):
    files = {
        "memory__job__memory.limit_in_bytes": str(3 * GIB),
        "memory__job__memory.usage_in_bytes": str(GIB),
        "memory__job__memory.stat": "total_inactive_file 0\n",
    }
    groups = "4:cpu:/job\n3:memory:/job\n"
    assert free_host_bytes(host(tmp_path, 8 * GIB, groups, **files)) == 2 * GIB


def test_the_address_space_leaves_less(tmp_path, monkeypatch):
    root = host(tmp_path, 8 * GIB, "")
    (root / "proc/self/statm").write_text(f"{GIB // resource.getpagesize()} 5 5 5 0 5 0\n")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (5 * GIB, 5 * GIB))
    assert free_host_bytes(root) == (4 * GIB - memory.RESERVED_BY_THREADS) // 2


def test_devices_on_the_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 8 * GIB)
    assert free_bytes(make_mesh(devices=jax.devices()[:1])) == 8 * GIB
    assert free_bytes(make_mesh(devices=jax.devices()[:8])) == GIB


def test_a_donated_argument_counts_once():
    x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    plain, donating = (jax.jit(lambda x: x + 1, donate_argnums=d).lower(x).compile() for d in ((), 0))
    assert program_bytes(plain) - program_bytes(donating) >= 0.9 * x.size * 4
    assert program_bytes(donating) >= x.size * 4


def test_numbers_are_readable():
    assert [describe_bytes(x) for x in (71.2e9, 1.5e8, 2e6)] == ["71.2 GB", "0.1 GB", "2.0 MB"]
