"""Optimised HLO text: its instructions, and the class of work that a kernel does."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CLASSES = (
    "products",
    "attention products",
    "attention",
    "gelu",
    "norm",
    "optimizer",
    "reductions",
    "sort and gather",
    "copies and transposes",
    "other elementwise",
    "collectives",
    "other",
)

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PRODUCTS = ("dot", "convolution", "ragged-dot")
SORTS = ("sort", "scatter", "topk", "select-and-scatter")
# Opcodes that move or cast values; a kernel of these alone is a copy.
MOVES = (
    *("copy", "transpose", "reshape", "slice", "concatenate", "pad", "reverse", "convert", "select"),
    *("dynamic-slice", "dynamic-update-slice", "broadcast", "iota", "compare", "and", "or"),
)
FREE = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")  # cost nothing
# Instructions whose work is that of the instructions in the computations that they call.
WRAPPERS = ("while", "call", "conditional", "async-start", "async-update", "async-done")

# Names of kernels of libraries and of this package, and targets of custom calls.
LIBRARY_KERNELS = {
    "attention": re.compile(r"fmha|flash|sdpa|window_(?:attention|query|key|bias)"),
    "norm": re.compile(r"layer_norm"),
    "collectives": re.compile(r"nccl"),
    "products": re.compile(r"gemm|cublas|cutlass|nvjet|xmma|wgmma|matmul|conv(?!ert)|onednn|wgrad|dgrad"),
    "sort and gather": re.compile(r"sort|topk"),
    "reductions": re.compile(r"splitkreduce|cub.*reduce"),
    "copies and transposes": re.compile(r"memcpy|memset"),
}

# Components of the metadata's op_name: modules of Flax, named scopes, primitives and kernels in Pallas.
_SCOPES = {
    "gelu": re.compile(r"(gelu\w*|erfc?|erf_inv)$"),
    "attention": re.compile(
        r"(attn|attention|\w*dot_product_attention|(large_)?window_(attention|query|key|bias)(_gradient)?)$"
    ),
    "norm": re.compile(r"(\w*norm\d*|_?batch_norm\w*|layer_norm_gradient)$"),
    "optimizer": re.compile(r"optimizer$"),
}
# Linear layers inside an attention module: their biases and casts are no attention.
_LINEAR_LAYERS = re.compile(r"(qkv|proj|q|k|v|kv|query|key|value)$")

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_BATCHED = re.compile(r'lhs_batch_dim(?:s=\{\d|ensions":\["\d)')


class Instruction(NamedTuple):
    """One instruction.

    details: its text from the operands on. shape: of its result, as text.
    """

    opcode: str
    details: str
    shape: str


class Module(NamedTuple):
    """A compiled program.

    instructions: {name: Instruction} of all computations. computations: {name: names of instructions}.
    entry: name of the computation that runs first; "" without one.
    """

    instructions: Mapping[str, Instruction]
    computations: Mapping[str, list[str]]
    entry: str


def parse(text: str) -> Module:
    """Parse the text of `compiled.as_text()`."""
    instructions: dict[str, Instruction] = {}
    computations: dict[str, list[str]] = {}
    names: list[str] = []
    entry = ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            names = computations.setdefault(header[1], [])
            entry = header[1] if line.startswith("ENTRY") else entry
            continue
        found = _INSTRUCTION.match(line)
        if found:
            instructions[found[1]] = Instruction(found[3], found[4], found[2])
            names.append(found[1])
    return Module(instructions, computations, entry)


def classify(name: str, module: Module) -> str | None:
    """Return the class of an instruction, by what it contains; None if there is no such instruction.

    A wrapper, such as a while loop, has no class either: its body's instructions have.
    """
    instruction = module.instructions.get(name)
    if instruction is None or instruction.opcode in WRAPPERS:
        return None
    contents = list(_contents(instruction, module))
    opcodes = [content.opcode for content in contents]
    if any(opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES for opcode in opcodes):
        return "collectives"
    targets = [_first(_TARGET, content.details) for content in contents]
    known = [library_class(target) for target in targets if target]
    if "attention" in known:
        return "attention"
    products = [
        content
        for content, target in zip(contents, targets, strict=True)
        if content.opcode in PRODUCTS or (target and library_class(target) == "products")
    ]
    if products:
        attention = any(_BATCHED.search(x.details) and _scope(x) == "attention" for x in products)
        return "attention products" if attention else "products"
    if any(opcode in SORTS for opcode in opcodes) or "sort and gather" in known:
        return "sort and gather"
    opcodes = [opcode for opcode in opcodes if opcode not in FREE]
    if all(opcode in MOVES for opcode in opcodes):
        return "copies and transposes"
    scopes = {_scope(content) for content in contents}
    for scope in ("gelu", "attention", "norm", "optimizer"):
        if scope in scopes:
            return scope
    if any(opcode in ("reduce", "reduce-window") for opcode in opcodes):
        return "reductions"
    if "gather" in opcodes:
        return "sort and gather"
    return "other" if "custom-call" in opcodes else "other elementwise"


def library_class(name: str) -> str | None:
    """Return the class of a kernel of LIBRARY_KERNELS, or of the target of a custom call, or None."""
    for kind, pattern in LIBRARY_KERNELS.items():
        if pattern.search(name.lower()):
            return kind
    return None


def _contents(instruction: Instruction, module: Module) -> Iterator[Instruction]:
    """Yield an instruction, or the instructions of the computations that a fusion calls."""
    called = _CALLED.findall(instruction.details) if instruction.opcode == "fusion" else []
    if not called:
        yield instruction
    for computation in called:
        for name in module.computations.get(computation, ()):
            yield from _contents(module.instructions[name], module)


def _scope(instruction: Instruction) -> str | None:
    """Return the part of the model that an instruction comes from, or None."""
    if instruction.opcode in FREE or instruction.opcode in MOVES:
        return None
    parts = _first(_OP_NAME, instruction.details).split("/")
    for scope, pattern in _SCOPES.items():
        # Backward passes name the forward path twice; either end tells the module.
        places = [index for index, part in enumerate(parts) if pattern.match(part)]
        if not places:
            continue
        if scope == "attention" and any(_LINEAR_LAYERS.match(part) for part in parts[places[-1] :]):
            continue
        return scope
    return None


def _first(pattern: re.Pattern, text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
