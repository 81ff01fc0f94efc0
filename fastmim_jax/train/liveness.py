"""The memory that a program needs, estimated from its jaxpr: tracing takes seconds, compiling minutes."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core

# Operations that XLA fuses into the kernels that read their result: nothing is stored for them.
FUSED = frozenset(
    (
        *("broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims", "transpose"),
        *("iota", "copy", "stop_gradient", "slice", "rev", "neg", "sharding_constraint", "name"),
    )
)
LOOPS = ("scan", "while")


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """Return the largest sum of bytes that are alive at once while a jaxpr runs, without its arguments.

    Of arrays that are split over devices all parts count, inside `jax.shard_map` too.

    Equations run in their order. A result is alive from its equation to the last one that reads it; that of
    an operation of FUSED takes no memory, but the values that it reads stay alive as long.
    """
    end = len(jaxpr.eqns)
    last_use = _last_uses(jaxpr)
    alive = peak = 0
    dying: dict[int, int] = {}  # equation after which bytes die -> bytes
    for index, equation in enumerate(jaxpr.eqns):
        fused = equation.primitive.name in FUSED
        new = 0 if fused else sum(map(_bytes, equation.outvars))
        inside = max((_inner_bytes(equation, inner) for inner in _inner_jaxprs(equation)), default=0)
        if equation.primitive.name in LOOPS:
            inside += new  # the carry that an iteration reads, beside the one that it writes
        peak = max(peak, alive + max(new, inside))
        alive += new
        for variable in () if fused else equation.outvars:
            death = last_use.get(variable, index)
            dying[min(death, end)] = dying.get(min(death, end), 0) + _bytes(variable)
        alive -= dying.pop(index, 0)
    return peak


def _inner_bytes(equation: Any, inner: core.Jaxpr) -> int:
    """Return the peak of an inner jaxpr; of `jax.shard_map`, of all devices that run it on a shard."""
    if equation.primitive.name != "shard_map":
        return peak_bytes(inner)
    pairs = zip(equation.invars, inner.invars, strict=True)
    shards = [_bytes(outer) // (_bytes(one) or 1) for outer, one in pairs]
    return peak_bytes(inner) * max(shards, default=1)


def _last_uses(jaxpr: core.Jaxpr) -> dict[Any, int]:
    """Return {variable: number of the last equation that reads it}, through fused operations."""
    last: dict[Any, int] = {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    for index in range(len(jaxpr.eqns) - 1, -1, -1):
        equation = jaxpr.eqns[index]
        use = index
        if equation.primitive.name in FUSED:
            use = max(last.get(variable, index) for variable in equation.outvars)
        for variable in equation.invars:
            if not isinstance(variable, core.Literal):
                last[variable] = max(last.get(variable, -1), use)
    return last


def _inner_jaxprs(equation: Any) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _bytes(variable: Any) -> int:
    aval = variable.aval
    if type(variable).__name__ == "DropVar" or not hasattr(aval, "shape"):
        return 0
    return aval.size * getattr(aval.dtype, "itemsize", 4)
