"""The instructions of a pickle, carried out without Python's unpickler.

pickletools cuts the program into instructions and decodes their arguments. Those that build plain
containers are carried out here, names are those of `known`, and all other instructions are refused.
"""

import pickletools

from fastmim_jax.export.torch_file.allowlist import (
    NEEDLESS,
    AllowedGlobal,
    OpaqueObject,
    UnsupportedFile,
    call,
    find,
    hashable,
    restore,
)


def run(file, memory):
    """The object that a pickle builds.

    Args:
      file: with read, readline and tell, at the pickle's start; it is left at its end.
      memory: what tensors look into, an `unpickle.StorageReader`.

    Raises:
      Refused: the pickle asks for what is not known.
      Exception: of any kind, where it is damaged.
    """
    machine = PickleMachine(memory)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _LITERALS:
            machine.stack.append(argument)
        elif opcode.name in _STEPS:
            _STEPS[opcode.name](machine, argument)
        elif opcode.name not in _FRAMING:
            raise UnsupportedFile(f"holds the pickle instruction {opcode.name}, {NEEDLESS}")
    return machine.stack.pop()


class PickleMachine:
    """stack: of values. marks: heights of it. memo: {number: value}, for values that occur again."""

    def __init__(self, memory):
        self.memory, self.stack, self.marks, self.memo = memory, [], [], {}

    def take(self, count=None):
        """The topmost values, off the stack; those above the last mark for None."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise ValueError("more is taken than there is")
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _push(make):
    return lambda machine, _: machine.stack.append(make())


def _gather(make, count=None):
    """One value made of several."""
    return lambda machine, _: machine.stack.append(make(machine.take(count)))


def _into(change, count=None):
    """Several values put into what lies below them."""

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
        raise ValueError("a name that is no text")
    _global(machine, f"{module} {name}")


def _reduce(machine, _):
    known, args = machine.take(2)
    machine.stack.append(call(known, machine.memory, args))


def _instance(machine, name):
    machine.stack.append(call(find(name), machine.memory, tuple(machine.take())))


def _object(machine, _):
    known, *args = machine.take()
    machine.stack.append(call(known, machine.memory, tuple(args)))


def _build(machine, _):
    state = machine.stack.pop()
    restore(machine.stack[-1], state, machine.memory)


def _persistent(machine, _):
    kind, *rest = machine.stack.pop()
    if kind != "storage":
        raise UnsupportedFile(
            "holds a whole model: expected its arrays, torch.save(model.state_dict(), path)"
        )
    known, key, _, count, *view = rest
    if type(known) is not AllowedGlobal or known.dtype is None or type(key) not in (str, int):
        raise ValueError("a storage of no known kind")
    machine.stack.append(machine.memory.storage(key, known.dtype, count, *view))


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
