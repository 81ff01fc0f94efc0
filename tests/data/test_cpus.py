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


def test_this_process():
    assert cpu_share().cpus == cpus.host_cpus() >= 1 and cpu_share().processes == 1
