"""Statistics of a compiled program's HLO text: collectives, copies and transposes, matrix products."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

DTYPE_BYTES = {"pred": 1, "bf16": 2} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
MOVES = ("copy", "transpose", "reshape")  # operations that only move data
LARGE_BYTES = 2**20  # a smaller all-reduce need not be combined with others

_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\(")
_FUSED = re.compile(r" fusion\(.*?calls=%?([\w.\-]+)")


class Instruction(NamedTuple):
    """An instruction: its computation, name, result shape as text, operation, and line."""

    computation: str
    name: str
    shape: str
    operation: str
    line: str


def shape_bytes(shape: str) -> int:
    """Return the bytes of an HLO shape such as "(f32[8,3]{1,0}, bf16[2])", without padding of tiles."""
    return sum(
        DTYPE_BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _SHAPE.findall(shape)
        if dtype in DTYPE_BYTES
    )


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of all computations; the body of a loop counts once."""
    computation = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
        elif match := _INSTRUCTION.match(line):
            yield Instruction(computation, *match.groups(), line)


def statistics(text: str) -> dict:
    """Return {name: figure} of an optimised HLO module.

    Returns:
      collectives: {operation: [count, bytes of the results]}.
      uncombined_all_reduces: {shape: count} of all-reduces of one array of at least 1 MiB.
      moves: {"copy", "transpose", "reshape": [count, bytes of the results]}, fusions named after one
        of them included; what is fused into other operations is not counted.
      custom_calls: {target: count}.
    """
    every = list(instructions(text))
    fused = {match[1] for match in map(_FUSED.search, (one.line for one in every)) if match}
    collectives = collections.defaultdict(lambda: [0, 0])
    moves = collections.defaultdict(lambda: [0, 0])
    uncombined, custom_calls = collections.Counter(), collections.Counter()
    for one in every:
        operation = one.operation.removesuffix("-done")  # of an asynchronous pair the second is counted
        if operation in COLLECTIVES:
            _add(collectives[operation], one.shape)
            alone = not one.shape.startswith("(")
            if operation == "all-reduce" and alone and shape_bytes(one.shape) >= LARGE_BYTES:
                uncombined[one.shape.split("{")[0]] += 1
        if one.operation == "custom-call":
            target = re.search(r'custom_call_target="([^"]+)"', one.line)
            custom_calls[target[1] if target else "?"] += 1
        if one.computation not in fused and (move := _move(one)):
            _add(moves[move], one.shape)
    return {
        "collectives": dict(collectives),
        "uncombined_all_reduces": dict(uncombined),
        "moves": dict(moves),
        "custom_calls": dict(custom_calls),
    }


def _add(total: list[int], shape: str) -> None:
    total[0] += 1
    total[1] += shape_bytes(shape)


def _move(instruction: Instruction) -> str | None:
    """Return which of MOVES an instruction is, or None; a fusion is named after what it does."""
    if instruction.operation.removesuffix("-done") in MOVES:
        return instruction.operation.removesuffix("-done")
    if instruction.operation == "fusion":
        return next((move for move in MOVES if move in instruction.name), None)
    return None
