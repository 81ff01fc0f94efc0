"""Matrix FLOPs of a function, counted exactly in its jaxpr, scans included."""

import math
from collections.abc import Callable
from typing import Any

import jax

PEAK_TFLOPS = {  # dense bfloat16, per device, from the data sheets
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "NVIDIA A100": 312,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}


def matrix_flops(function: Callable, *args: Any) -> int:
    """Return the FLOPs (2 per multiply-add) of all matrix products and convolutions of function(*args).

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
    """Return the FLOP/s of a device in bfloat16, or None if it is not in PEAK_TFLOPS."""
    for name, tflops in PEAK_TFLOPS.items():
        if device_kind.startswith(name):
            return tflops * 1e12
    return None
