"""Statistics of a compiled program: collectives, copies and transposes, custom calls."""

import collections
import math
import re
from collections.abc import Iterator

from fastmim_jax.tools.hlo import COLLECTIVES, FREE, WRAPPERS, Instruction, Module, parse

DTYPE_BYTES = {"pred": 1, "bf16": 2} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
MOVES = ("copy", "transpose", "reshape")  # operations that only move data
LARGE_BYTES = 2**20  # a smaller all-reduce need not be combined with others
BETWEEN_SLICES = "all-reduce between slices"  # of TPUs: a kind of its own, made of `send` and `recv`

Totals = collections.defaultdict[str, list[int]]  # {name: [count, bytes]}

_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations)=")
_NAMES = re.compile(r"%?([\w.\-]+)")
_TURNS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_CONSTANT = re.compile(r"(\d+)\)")


def shape_bytes(shape: str) -> int:
    """Return the bytes of an HLO shape such as "(f32[8,3]{1,0}, bf16[2])", without padding of tiles."""
    return sum(
        DTYPE_BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _SHAPE.findall(shape)
        if dtype in DTYPE_BYTES
    )


def statistics(text: str) -> dict:
    """Return {name: figure} of an optimised HLO module.

    What a loop does counts as often as the loop turns.

    Returns:
      collectives: {operation: [count, bytes of the whole arrays]}.
      uncombined_all_reduces: {shape: count} of all-reduces of one array of at least 1 MiB.
      moves: {"copy", "transpose", "reshape": [count, bytes of the results]}, fusions named after one
        of them included; what is fused into other operations is not counted.
      custom_calls: {target: count}.
      loop_factor: bytes that a step writes, over those written if every loop turned once.
    """
    module = parse(text)
    times, fused = _executions(module), _fused(module)
    collectives: Totals = collections.defaultdict(lambda: [0, 0])
    moves: Totals = collections.defaultdict(lambda: [0, 0])
    uncombined: collections.Counter = collections.Counter()
    custom_calls: collections.Counter = collections.Counter()
    for computation, names in module.computations.items():
        for name in names:
            one, often = module.instructions[name], times[computation]
            operation = one.opcode.removesuffix("-done")  # of an asynchronous pair the second is counted
            if operation in COLLECTIVES:
                _add(collectives[operation], often, _array_bytes(one, operation, module))
                alone = not one.shape.startswith("(")
                if operation == "all-reduce" and alone and shape_bytes(one.shape) >= LARGE_BYTES:
                    uncombined[one.shape.split("{")[0]] += often
            if one.opcode == "send" and "megascale" in one.details:
                _add(collectives[BETWEEN_SLICES], often, shape_bytes(one.shape))
            if one.opcode == "custom-call":
                target = re.search(r'custom_call_target="([^"]+)"', one.details)
                custom_calls[target[1] if target else "?"] += often
            if computation not in fused and (move := _move(name, one)):
                _add(moves[move], often, shape_bytes(one.shape))
    return {
        "collectives": dict(collectives),
        "uncombined_all_reduces": dict(uncombined),
        "moves": dict(moves),
        "custom_calls": dict(custom_calls),
        "loop_factor": _loop_factor(module, times, fused),
    }


def _loop_factor(module: Module, times: collections.Counter, fused: set[str]) -> float:
    """Return the bytes written in a step over those written if every loop turned once."""
    once = total = 0
    for computation, names in module.computations.items():
        if computation in fused or not times[computation]:
            continue
        written = sum(_written_bytes(module.instructions[name], module) for name in names)
        once, total = once + written, total + times[computation] * written
    return total / once if once else 1.0


def _written_bytes(instruction: Instruction, module: Module) -> int:
    """Return the bytes that an instruction writes: of a dynamic-update-slice, those of the slice."""
    opcode = instruction.opcode
    if opcode in FREE or opcode in WRAPPERS or opcode.endswith(("-start", "-update")):
        return 0
    last = instruction
    if opcode == "fusion" and (called := list(_called(instruction))):
        last = module.instructions[module.computations[called[0]][-1]]
    written = [module.instructions[name] for name in _operands(last)] if last.opcode == "tuple" else [last]
    sizes = [_slice_bytes(one, module) for one in written]
    if not any(size is not None for size in sizes):
        return shape_bytes(instruction.shape)
    return sum(
        shape_bytes(one.shape) if size is None else size for one, size in zip(written, sizes, strict=True)
    )


def _slice_bytes(instruction: Instruction, module: Module) -> int | None:
    """Return the bytes of the slice that a dynamic-update-slice writes; None for other instructions."""
    if instruction.opcode == "bitcast" and (operands := _operands(instruction)):
        instruction = module.instructions.get(operands[0], instruction)
    if instruction.opcode != "dynamic-update-slice":
        return None
    return shape_bytes(module.instructions[_operands(instruction)[1]].shape)


def _executions(module: Module) -> collections.Counter:
    """Return how often each computation runs; without an entry, once."""
    times: collections.Counter = collections.Counter()
    if not module.entry:
        return collections.Counter(dict.fromkeys(module.computations, 1))

    def visit(computation: str, often: int) -> None:
        times[computation] += often
        for name in module.computations.get(computation, ()):
            one = module.instructions[name]
            turns = _turns(one, module) if one.opcode == "while" else 1
            for called in _called(one):
                visit(called, often * turns)

    visit(module.entry, 1)
    return times


def _called(instruction: Instruction) -> Iterator[str]:
    """Yield the computations that an instruction runs; those of an asynchronous one at its start."""
    if instruction.opcode.endswith(("-done", "-update")):
        return
    for found in _CALLED.finditer(instruction.details):
        rest = instruction.details[found.end() :]
        listed = rest[1:].partition("}")[0].split(",") if rest.startswith("{") else [rest]
        for name in listed:
            if match := _NAMES.match(name.strip()):
                yield match[1]


def _turns(loop: Instruction, module: Module) -> int:
    """Return how often a loop turns: as the compiler says, or the constant of its condition, or 1."""
    if found := _TURNS.search(loop.details):
        return int(found[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.details)
    names = module.computations.get(condition[1], []) if condition else []
    if not names or "direction=LT" not in module.instructions[names[-1]].details:
        return 1
    operands = _operands(module.instructions[names[-1]])
    bound = module.instructions.get(operands[-1]) if operands else None
    constant = _CONSTANT.match(bound.details) if bound and bound.opcode == "constant" else None
    return int(constant[1]) if constant else 1


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.details.partition(")")[0])


def _array_bytes(instruction: Instruction, operation: str, module: Module) -> int:
    """Return the bytes of the whole arrays of a collective: of reduce-scatter, of its operands."""
    if operation != "reduce-scatter":
        return shape_bytes(instruction.shape)
    operands = [module.instructions[name] for name in _operands(instruction) if name in module.instructions]
    return max(shape_bytes(instruction.shape), sum(shape_bytes(operand.shape) for operand in operands))


def _fused(module: Module) -> set[str]:
    """Return the computations that fusions call."""
    fusions = (one for one in module.instructions.values() if one.opcode == "fusion")
    return {name for one in fusions for name in _called(one)}


def _add(total: list[int], often: int, size: int) -> None:
    total[0] += often
    total[1] += often * size


def _move(name: str, instruction: Instruction) -> str | None:
    """Return which of MOVES an instruction is, or None; a fusion is named after what it does."""
    if instruction.opcode.removesuffix("-done") in MOVES:
        return instruction.opcode.removesuffix("-done")
    if instruction.opcode == "fusion":
        return next((move for move in MOVES if move in name), None)
    return None
