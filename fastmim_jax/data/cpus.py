"""The CPUs that this process may use, and the number of worker processes that follows from them."""

import functools
import os
import zlib
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.host import cpu_quota


class CpuShare(NamedTuple):
    """The CPUs of this process.

    Attributes:
      cpus: its share of those that its affinity and its container allow, at least 1.
      processes: processes of the run on this host.
    """

    cpus: int
    processes: int


def pick_workers(cpu_count: int) -> int:
    """Return the default number of worker processes: 0 with few cores, where threads are faster."""
    return 0 if cpu_count <= 4 else min(16, max(1, round(cpu_count / 3)))


def host_cpus() -> int:
    """Return the CPUs that the affinity and the container of this process allow, at least 1."""
    return max(1, int(min(len(_affinity()), cpu_quota())))


@functools.cache
def cpu_share() -> CpuShare:
    """Return the CPUs of this process.

    Several processes of a run all have to call it at the same point: they compare hosts and affinities.
    """
    import jax  # here: `host_cpus` is for programs without it

    affinity = _affinity()
    mine = np.array([zlib.crc32(os.uname().nodename.encode()), zlib.crc32(repr(affinity).encode())])
    if jax.process_count() == 1:
        everyone = mine[None]
    else:
        from jax.experimental import multihost_utils

        everyone = np.asarray(multihost_utils.process_allgather(mine))
    return _share(affinity, cpu_quota(), mine, everyone)


def _share(affinity, quota, mine, everyone):
    """Divide CPUs among the processes that may use the same ones, and a container's time among all.

    Args:
      affinity: the CPUs that this process may run on.
      quota: CPUs' worth of time of its container.
      mine: (hash of the host, hash of the affinity). everyone: (processes, 2).
    """
    same_host = everyone[:, 0] == mine[0]
    same_cpus = same_host & (everyone[:, 1] == mine[1])
    cpus = min(len(affinity) / same_cpus.sum(), quota / same_host.sum())
    return CpuShare(max(1, int(cpus)), int(same_host.sum()))


def _affinity():
    """-> sorted numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS
