"""CPUs by affinity, container and processes on a host, without starting any."""

import math

import numpy as np
import pytest

from fastmim_jax.data import cpus
from fastmim_jax.data.cpus import cpu_share, pick_workers


def test_pick_workers():
    assert [pick_workers(n) for n in (1, 2, 4, 5, 8, 12, 48, 96, 224)] == [*(0, 0, 0, 2, 3, 4, 16, 16, 16)]


@pytest.mark.parametrize(
    ("affinity", "quota", "everyone", "expected"),
    [
        (96, math.inf, [(1, 1)], (96, 1)),
        (96, math.inf, [(1, 1)] * 8, (12, 8)),  # eight processes that may run anywhere
        (12, math.inf, [(1, n) for n in range(1, 9)], (12, 8)),  # each on CPUs of its own
        (96, math.inf, [(1, 1), (2, 1)], (96, 1)),  # another host
        (96, 8.0, [(1, 1)] * 2, (4, 2)),  # a container of 8 CPUs
        (2, 0.5, [(1, 1)], (1, 1)),
    ],
)
def test_a_share_of_the_cpus(affinity, quota, everyone, expected):
    share = cpus._share(range(affinity), quota, np.array([1, 1]), np.array(everyone))
    assert share == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_limit_of_a_container(tmp_path, monkeypatch, files, expected):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(cpus, "_CGROUPS", tmp_path)
    assert cpus._quota() == expected


def test_this_process():
    assert cpu_share().cpus == cpus.host_cpus() >= 1 and cpu_share().processes == 1
