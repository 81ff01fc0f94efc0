"""A pickle virtual machine that runs plain data only, without Python's unpickler.

pickletools splits the program into instructions and decodes their arguments. Instructions that build
containers are carried out here, globals come from `allowlist`, all other instructions are refused.
"""

import pickletools
from typing import BinaryIO

from fastmim_jax.export.torch_file.allowlist import (
    NOT_ALLOWED,
    AllowedGlobal,
    OpaqueObject,
    UnsupportedFile,
    call,
    find,
    hashable,
    restore,
)

# Errors that the instructions of a damaged pickle lead to.
DECODING_ERRORS = (
    ValueError,  # of pickletools and of the checks here; undecodable text
    LookupError,  # an empty stack, a number without a memo, a storage without a record
    TypeError,  # a function of the allow-list with values of other types than it takes
    AttributeError,
    OverflowError,  # a number beyond 64 bits
    RecursionError,  # the text of a deeply nested value
    MemoryError,
)


class DamagedFile(Exception):
    """A file that does not decode. The message says what was found."""


def run(file: BinaryIO, reader) -> object:
    """Return the object that a pickle builds.

    Args:
      file: with read, readline and tell, at the pickle's start; left at its end.
      reader: the `StorageReader` behind its tensors.

    Raises:
      UnsupportedFile: the pickle asks for something that is not allowed.
      DamagedFile: it does not decode.
    """
    try:
        return _run(PickleMachine(reader), file)
    except DECODING_ERRORS as error:
        raise DamagedFile(f"{type(error).__name__}: {error}") from error


def _run(machine, file):
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _LITERALS:
            machine.stack.append(argument)
        elif opcode.name in _STEPS:
            _STEPS[opcode.name](machine, argument)
        elif opcode.name not in _FRAMING:
            raise UnsupportedFile(f"holds the pickle instruction {opcode.name}, {NOT_ALLOWED}")
    return machine.stack.pop()


class PickleMachine:
    """State of a running pickle.

    Attributes:
      reader: the `StorageReader` behind its tensors.
      stack: values. marks: heights of the stack. memo: {number: value}.
    """

    def __init__(self, reader):
        self.reader, self.stack, self.marks, self.memo = reader, [], [], {}

    def take(self, count: int | None = None) -> list:
        """Pop `count` values off the stack; for None, all above the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise ValueError("more values popped than pushed")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _push(make):
    return lambda machine, _: machine.stack.append(make())


def _gather(make, count=None):
    """A step that replaces several values by one."""
    return lambda machine, _: machine.stack.append(make(machine.take(count)))


def _into(change, count=None):
    """A step that adds several values to the container below them."""

    def step(machine, _):
        items = machine.take(count)
        change(machine.stack[-1], items)

    return step


def _set_items(target, flat):
    entries = target.entries if type(target) is OpaqueObject else target
    if type(entries) is not dict:
        raise ValueError("entries without a dict")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        entries[hashable(key)] = value


def _new_dict(flat):
    made = {}
    _set_items(made, flat)
    return made


def _append(target, values):
    items = target.items if type(target) is OpaqueObject else target
    if type(items) is not list:
        raise ValueError("items without a list")
    items.extend(values)


def _add(target, values):
    if type(target) is not set:
        raise ValueError("members without a set")
    target.update(map(hashable, values))


def _pop(machine, _):
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _memoize(machine, index):
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _global(machine, name):
    machine.stack.append(find(name))


def _stack_global(machine, _):
    module, name = machine.take(2)
    if type(module) is not str or type(name) is not str:
        raise ValueError("a global whose name is not text")
    _global(machine, f"{module} {name}")


def _reduce(machine, _):
    target, args = machine.take(2)
    machine.stack.append(call(target, machine.reader, args))


def _instance(machine, name):
    machine.stack.append(call(find(name), machine.reader, tuple(machine.take())))


def _object(machine, _):
    target, *args = machine.take()
    machine.stack.append(call(target, machine.reader, tuple(args)))


def _build(machine, _):
    state = machine.stack.pop()
    restore(machine.stack[-1], state, machine.reader)


def _persistent(machine, _):
    kind, *rest = machine.stack.pop()
    if kind != "storage":
        raise UnsupportedFile(
            "holds a pickled model: expected its arrays, torch.save(model.state_dict(), path)"
        )
    storage_class, key, _, count, *view = rest
    if (
        type(storage_class) is not AllowedGlobal
        or storage_class.dtype is None
        or type(key) not in (str, int)
    ):
        raise ValueError("a storage without a class or key")
    machine.stack.append(machine.reader.storage(key, storage_class.dtype, count, *view))


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_FRAMING = {"PROTO", "FRAME", "STOP"}
_STEPS = {
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "EMPTY_SET": _push(set),
    "TUPLE1": _gather(tuple, 1),
    "TUPLE2": _gather(tuple, 2),
    "TUPLE3": _gather(tuple, 3),
    "TUPLE": _gather(tuple),
    "LIST": _gather(list),
    "DICT": _gather(_new_dict),
    "FROZENSET": _gather(lambda items: frozenset(map(hashable, items))),
    "APPEND": _into(_append, 1),
    "APPENDS": _into(_append),
    "SETITEM": _into(_set_items, 2),
    "SETITEMS": _into(_set_items),
    "ADDITEMS": _into(_add),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.take(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, index: machine.stack.append(machine.memo[index]),
    ),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
