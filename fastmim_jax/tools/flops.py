"""Matrix FLOPs of a function, counted exactly in its jaxpr, scans included."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax

# Dense bfloat16 with float32 sums, per JAX device, by the start of its kind; the longest match counts.
# Sources: the data sheets of NVIDIA and Google; names of TPUs: jax/_src/pallas/mosaic/tpu_info.py.
PEAK_TFLOPS = {
    "NVIDIA GB300": 2500,
    "NVIDIA B300": 2250,
    "NVIDIA GB200": 2500,
    "NVIDIA B200": 2250,
    "NVIDIA GH200": 989,
    "NVIDIA H200": 989,
    "NVIDIA H200 NVL": 836,
    "NVIDIA H100": 989,
    "NVIDIA H100 NVL": 836,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H800": 989,
    "NVIDIA H800 PCIe": 756,
    "NVIDIA H20": 148,
    "NVIDIA A100": 312,
    "NVIDIA A800": 312,
    "NVIDIA A40": 150,
    "NVIDIA A30": 165,
    "NVIDIA A10": 125,
    "NVIDIA A10G": 70,
    "NVIDIA L40": 181,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "NVIDIA RTX PRO 6000 Blackwell": 504,
    "NVIDIA RTX 6000 Ada": 364,
    "NVIDIA RTX A6000": 155,
    "NVIDIA GeForce RTX 5090": 210,
    "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 3090": 71,
    "TPU v2": 22.5,  # one core of two
    "TPU v3": 61.5,  # one core of two
    "TPU v4": 275,
    "TPU v4 lite": 137,
    "TPU v5 lite": 197,  # v5e
    "TPU v5e": 197,
    "TPU v5": 459,  # v5p
    "TPU v5p": 459,
    "TPU v6 lite": 918,  # v6e, Trillium
    "TPU v6e": 918,
    "TPU7x": 1153.5,  # Ironwood: one of the chip's two devices
}


def matrix_flops(function: Callable, *args: Any) -> int:
    """Return the FLOPs (2 per multiply-add) of all matrix products and convolutions of function(*args).

    Of the branches of a condition the one with most FLOPs counts.

    Args:
      function: traceable by JAX.
      *args: its arguments, arrays or ShapeDtypeStructs.

    Raises:
      NotImplementedError: a while loop, whose length is unknown.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * kernel.size // outputs * equation.outvars[0].aval.size
        elif name == "cond":  # also the branches of `platform_dependent`, of which a device runs one
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        elif name == "while":
            raise NotImplementedError("a while loop has no fixed number of FLOPs")
        else:
            repeats = params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(_count(inner) for inner in _inner_jaxprs(params))
    return total


def _inner_jaxprs(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


def peak_flops(device_kind: str) -> float | None:
    """Return the FLOP/s of a device in bfloat16, or None if it is not in PEAK_TFLOPS.

    A share of a GPU (MIG) has no peak of its own in the data sheets.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA H100 PCIe"), peak_flops("TPU v5")
    (989000000000000.0, 756000000000000.0, 459000000000000.0)
    """
    names = [name for name in PEAK_TFLOPS if re.match(re.escape(name) + r"\b", device_kind)]
    if not names or "MIG" in device_kind:
        return None
    return PEAK_TFLOPS[max(names, key=len)] * 1e12
