"""Topologies: parsed from their names, and the devices of one to compile for."""

import importlib.util
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.tools.plan.chips import CHIPS, Chip
from fastmim_jax.validate.names import count

GPUS_A_NODE = (1, 2, 4, 8)
MOST_SLICES = 64  # or nodes
TARGETS = Path(__file__).parent / "targets"  # descriptions of GPUs, of XLA's public ones
_NAME = re.compile(r"(\w+):(\d+(?:x\d+)*?)(?:x(\d+)slices)?")
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process fails
    "TPU_LOG_DIR": "disabled",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # this and the next only silence warnings
    "TPU_WORKER_HOSTNAMES": "localhost",
}
NO_LIBTPU = 'compiling for TPUs needs libtpu, but no TPU: type pip install "fastmim_jax[tpu]"'
# The plug-in disturbs ordinary starts of JAX without a GPU, so it has an environment of its own.
GPU_ENVIRONMENT = (
    "python3.12 -m venv gpu_plan && "
    "gpu_plan/bin/pip install . jax==0.11.2 jaxlib==0.11.2 jax-cuda13-pjrt==0.11.2 && "
    "gpu_plan/bin/pip install --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88"
)
NO_GPU_COMPILER = (
    "compiling for NVIDIA GPUs needs XLA's GPU compiler, but no GPU, in an environment of its own: type "
    f"{GPU_ENVIRONMENT}, and then gpu_plan/bin/fastmim plan with the same flags"
)


class Topology(NamedTuple):
    """Hardware to plan for.

    shape: of one slice of TPUs, or (GPUs of a node,). slices: or nodes.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int

    @property
    def size(self) -> int:
        """Chips of one slice or node."""
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        """Number of all chips."""
        return self.size * self.slices

    def __str__(self) -> str:
        part = "slice" if self.chip.platform == "tpu" else "node"
        return f"{self.name} ({self.chips} x {self.chip.kind}, {count(self.slices, part)})"


def parse_topology(name: str) -> Topology:
    """Parse names such as "v5e:2x4", "v5e:16x16x2slices" (two slices), "h100:8" and "a100:2x8" (two nodes).

    Raises:
      UserError: no such hardware; with the names that are accepted.
    """
    found = _NAME.fullmatch(name)
    if not found or found[1] not in CHIPS:
        raise UserError(f"--topology={name} is not known; choose from: {_accepted(*CHIPS)}")
    chip, numbers = CHIPS[found[1]], tuple(int(number) for number in found[2].split("x"))
    slices = int(found[3] or 1)
    if chip.platform == "gpu":
        slices, *shape = (1, *numbers) if len(numbers) == 1 else numbers
        known = not found[3] and len(shape) == 1 and shape[0] in GPUS_A_NODE
    else:
        shape, known = list(numbers), found[2] in chip.slices
    if not known or not 1 <= slices <= MOST_SLICES:
        raise UserError(f"--topology={name} does not exist; choose from: {_accepted(found[1])}")
    return Topology(name, chip, tuple(shape), slices)


def _accepted(*names: str) -> str:
    """Return the names of topologies that are accepted."""
    parts = []
    for name in names:
        if CHIPS[name].slices:
            parts.append(f"{name}:{{{', '.join(CHIPS[name].slices)}}}")
        else:
            parts.append(f"{name}:{{{', '.join(map(str, GPUS_A_NODE))}}} in one node, {name}:2x8 in two")
    several = any(CHIPS[name].slices for name in names)
    return "; ".join(parts) + (f"; for 2 to {MOST_SLICES} slices, add x2slices" if several else "")


def open_devices(topology: Topology) -> list:
    """Return the devices of a topology, which can be compiled for; JAX must use CPUs otherwise.

    Raises:
      UserError: the compiler is not installed; with what to type.
    """
    from jax.experimental import topologies

    if topology.chip.platform == "gpu":
        return _gpus(topology, topologies)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(NO_LIBTPU)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    shape = "x".join(map(str, topology.shape))
    options: dict = {} if topology.slices == 1 else {"num_slices": topology.slices}
    if topology.size == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    name = f"{topology.name.partition(':')[0]}:{shape}"
    described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    return list(described.devices)


def _gpus(topology, topologies):
    if importlib.util.find_spec("jax_plugins") is None or not importlib.util.find_spec(
        "jax_plugins.xla_cuda13"
    ):
        raise UserError(NO_GPU_COMPILER)
    target = (TARGETS / f"{topology.name.partition(':')[0]}.txtpb").read_text()
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=target,
        topology=f"1x{topology.slices}x{topology.size}",  # partitions x hosts x GPUs of a host
    )
    return list(described.devices)
