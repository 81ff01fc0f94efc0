"""The chips that a step can be planned for: memory, bandwidths and the slices or nodes they come in."""

import dataclasses
import math
import os
from collections.abc import Mapping

from fastmim_jax.tools.flops import PEAK_TFLOPS

GIB = 2**30
# Of a GPU, JAX allocates this share at the start (XLA_PYTHON_CLIENT_MEM_FRACTION).
GPU_SHARE = 0.75
_SHARE_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_BLOCKS = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16"),
    *("8x16x16", "16x16x16", "16x16x24"),
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
      platform: "tpu" or "gpu".
      kind: its name in PEAK_TFLOPS.
      memory_bytes: HBM.
      program_bytes: of a TPU's, what XLA leaves to a program.
      bandwidth: of HBM, bytes/s.
      link: of one chip to its slice or node, bytes/s in one direction.
      network: of one chip between slices or nodes, bytes/s.
      slices: names of the slices of TPUs; () for GPUs.
    """

    platform: str
    kind: str
    memory_bytes: float
    program_bytes: float
    bandwidth: float
    link: float
    network: float
    slices: tuple[str, ...] = ()

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        return PEAK_TFLOPS[self.kind] * 1e12

    def usable_bytes(self, environ: Mapping[str, str] = os.environ) -> float:
        """Return the bytes that a program may use: of a GPU, the share that JAX allocates."""
        if self.platform == "tpu":
            return self.program_bytes
        return float(environ.get(_SHARE_VARIABLE) or GPU_SHARE) * self.memory_bytes


# Sources: docs.cloud.google.com/tpu/docs (v5e, v5p, v6e), NVIDIA's data sheets (NVLink: half of the sum of
# both directions; network: one 400 Gb/s adapter a GPU in a DGX H100, 200 Gb/s in a DGX A100). What a
# program may use of a TPU's memory: the messages of libtpu 0.0.42.1. Memory of GPUs: XLA's descriptions.
CHIPS = {
    "v5e": Chip("tpu", "TPU v5 lite", 16 * GIB, 15.75 * GIB, 819e9, 200e9, 3.1e9, _PLANES),
    "v5p": Chip("tpu", "TPU v5", 96 * GIB, 95.74 * GIB, 2765e9, 600e9, 6.25e9, _BLOCKS),
    "v6e": Chip("tpu", "TPU v6 lite", 32 * GIB, 31.25 * GIB, 1640e9, 448e9, 12.5e9, _PLANES),
    "h100": Chip("gpu", "NVIDIA H100", 84942979072, math.nan, 3352e9, 450e9, 50e9),
    "a100": Chip("gpu", "NVIDIA A100", 85100068864, math.nan, 2039e9, 300e9, 25e9),
}
