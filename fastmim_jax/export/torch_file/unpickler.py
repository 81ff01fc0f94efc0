"""Unpickle a checkpoint: constructors of arrays, and inert stand-ins for everything else.

Python's own unpickler decodes the instructions and calls what `find_class` gives it: nothing that a file
names is imported or looked up. Instructions that would change objects or hash nested keys are replaced.
"""

import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from typing import Any, BinaryIO

import numpy as np

from fastmim_jax.export.torch_file.arrays import Budget, Storage, StoredArray, numpy_array

OBJECT_BYTES = 300  # that an instruction may allocate beside the bytes that it reads
SCALARS = (int, float, complex, bool, str, bytes, type(None))


@dataclass(eq=False, slots=True)
class DType:
    """A dtype, or the class of a storage of it; None for one that is not of plain numbers or text."""

    dtype: np.dtype | None


class Entries(dict):
    """A dict whose keys are flat; a nested key becomes a stand-in.

    Hashing a nested tuple can take exponential time: pickles share subtuples.
    """

    def __setitem__(self, key: object, value: object) -> None:
        parts = key if type(key) is tuple else (key,)
        flat = all(
            type(part) in (*SCALARS, StandIn, DType) or isinstance(part, np.generic) for part in parts
        )
        super().__setitem__(key if flat else StandIn("nested key"), value)


class StandIn:
    """Stand-in for a class or function, or for an object of one; calls make another, nothing else is done.

    Attributes:
      name: "module.class".
      args: arguments of its constructor.
      state: argument of its `__setstate__`, usually a dict of attributes.
      entries, items: contents of a subclass of dict, of list or set.
      unread: number of objects by name, counted in calls.
    """

    __slots__ = ("args", "entries", "items", "name", "state", "unread")

    def __init__(self, name: str, args: tuple = (), unread: Counter[str] | None = None):
        self.name, self.args, self.unread = name, args, unread
        self.state: object = None
        self.entries: Entries | None = None
        self.items: list | None = None
        if unread is not None:
            unread[name] += 1

    def __call__(self, *args: object) -> "StandIn":
        return StandIn(self.name, args, self.unread)

    def __setitem__(self, key: object, value: object) -> None:
        self.entries = Entries() if self.entries is None else self.entries
        self.entries[key] = value

    def append(self, value: object) -> None:
        """Keep an item."""
        self.items = [] if self.items is None else self.items
        self.items.append(value)

    add = append

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


class CheckpointUnpickler(pickle._Unpickler):
    """Unpickler of one pickle.

    Args:
      file: with read and readline, at the pickle's start; left at its end.
      constructors: {"module name": DType or function (unpickler, *args) -> value}.
      storage: (key, dtype, count, view) -> Storage, for the tensors.
      budget: of memory.
      unread: number of objects without a constructor, by name; added to.
    """

    stack: list[Any]  # of Python's unpickler

    def __init__(
        self,
        file: BinaryIO | mmap,
        constructors: Mapping[str, Any],
        storage: Callable[..., Storage],
        budget: Budget,
        unread: Counter[str],
    ):
        super().__init__(file, encoding="latin-1")  # of Python 2's text, in which arrays have their bytes
        self.constructors, self.storage = constructors, storage
        self.budget, self.unread = budget, unread

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for a global; nothing is imported."""
        found = self.constructors.get(f"{module} {name}")
        if isinstance(found, np.dtype):
            return DType(found)
        if found is not None:
            return partial(found, self)
        self.unread.setdefault(f"{module}.{name}", 0)
        stand_in = StandIn(f"{module}.{name}")
        stand_in.unread = self.unread
        return stand_in

    def get_extension(self, code: int) -> None:
        """Push a stand-in for a global by its number in a registry, which is not looked into."""
        self.stack.append(self.find_class("copyreg", f"extension {code}"))

    def persistent_load(self, pid: Any) -> object:
        """Return the Storage of ("storage", class, key, location, count[, view])."""
        if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage":
            # ("module", class, ...) of pickled models before PyTorch 1.6
            found = pid[1] if type(pid) is tuple and len(pid) > 1 else None
            return found if type(found) is StandIn else StandIn("persistent object", (), self.unread)
        _, kind, key, _, count, *view = pid
        if type(kind) is StandIn:
            return kind()
        if type(kind) is not DType or type(key) not in (str, int):
            raise ValueError("a storage without a class or key")
        return self.storage(key, kind.dtype, count, *view)

    def _new(self):
        args, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(kind(*args))

    def _new_with_keywords(self):
        self.stack.pop()
        self._new()

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is StandIn:
            target.state = state
        elif type(target) is DType:
            _set_byte_order(target, state)
        elif type(target) is StoredArray and target.read is None:
            _, shape, holder, fortran, raw = state
            if type(holder) is DType and holder.dtype is not None:
                target.read = numpy_array(self.budget, shape, holder.dtype, bool(fortran), raw)
        # Others, such as an OrderedDict with _metadata, lose their attributes.

    def _dict(self):
        flat, entries = self.pop_mark(), Entries()
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            entries[key] = value
        self.stack.append(entries)

    def _empty_dict(self):
        self.stack.append(Entries())

    def _empty_set(self):
        self.stack.append(StandIn("builtins.set"))

    def _frozenset(self):
        self.stack.append(StandIn("builtins.frozenset", tuple(self.pop_mark())))

    def _bytearray(self):
        size = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(size)))  # Python's own allocates `size` bytes before it reads


# Literals allocate little more than the bytes that they read.
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "NONE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE"),
)
_REPLACED = {
    "NEWOBJ": CheckpointUnpickler._new,
    "NEWOBJ_EX": CheckpointUnpickler._new_with_keywords,
    "BUILD": CheckpointUnpickler._build,
    "DICT": CheckpointUnpickler._dict,
    "EMPTY_DICT": CheckpointUnpickler._empty_dict,
    "EMPTY_SET": CheckpointUnpickler._empty_set,
    "FROZENSET": CheckpointUnpickler._frozenset,
    "BYTEARRAY8": CheckpointUnpickler._bytearray,
}


def _metered(step: Callable) -> Callable:
    """Return an instruction that takes its memory from the budget first."""

    def run(unpickler: CheckpointUnpickler) -> None:
        unpickler.budget.spend(OBJECT_BYTES)
        step(unpickler)

    return run


def _instructions() -> dict[int, Callable]:
    """Return {code: step}: Python's steps, where they are not replaced."""
    codes = {name: getattr(pickle, name)[0] for name in (*_LITERALS, *_REPLACED)}
    steps = CheckpointUnpickler.dispatch | {codes[name]: step for name, step in _REPLACED.items()}
    literals = {codes[name] for name in _LITERALS}
    return {code: step if code in literals else _metered(step) for code, step in steps.items()}


CheckpointUnpickler.dispatch = _instructions()


def _set_byte_order(target: DType, state: Any) -> None:
    if any(part is not None for part in state[2:5]):
        target.dtype = None  # an array of records
    elif target.dtype is not None:
        target.dtype = target.dtype.newbyteorder(state[1])
