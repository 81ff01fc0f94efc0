"""Allow-list of pickle globals: the names that a checkpoint may use, and the function behind each.

No name is imported or looked up in a module. A call runs a function of this file, which checks its
arguments; an instance of a class that is not needed here becomes an `OpaqueObject`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from fastmim_jax.export.torch_file.reader import StorageReader

SCALARS = (int, float, complex, bool, str, bytes, type(None))
NOT_ALLOWED = "which no checkpoint of arrays needs: the file was refused and nothing of it was run"


class UnsupportedFile(Exception):
    """A file that cannot be read. The message follows the file's name: "is empty: expected ..."."""


@dataclass(eq=False, repr=False, slots=True)
class OpaqueObject:
    """Stand-in for an instance of a class that is not needed; the class is neither imported nor run.

    Attributes:
      name: "module.class".
      args: arguments of its constructor.
      state: argument of its `__setstate__`, usually a dict of attributes.
      entries, items: contents of a subclass of dict or list.
    """

    name: str
    args: tuple = ()
    state: object = None
    entries: dict[object, object] = field(default_factory=dict)
    items: list[object] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


@dataclass(frozen=True, eq=False)
class AllowedGlobal:
    """A global that a pickle may name.

    Attributes:
      name: "module.name".
      make: (reader.StorageReader, *args) -> value; None for a global that cannot be called.
      dtype: that of a torch.dtype or of a class of storages, else None.
    """

    name: str
    make: Callable | None = None
    dtype: np.dtype | None = None

    def __repr__(self) -> str:
        return self.name


class PendingDType:
    """A numpy dtype whose byte order follows in a BUILD instruction."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def find(name: str) -> AllowedGlobal:
    """Look up "module name".

    Raises:
      UnsupportedFile: it is not allowed.
    """
    module, _, last = name.partition(" ")
    if last in _NOT_DENSE and module in ("torch", "torch._utils"):
        raise UnsupportedFile(
            f"holds a {_NOT_DENSE[last]} tensor ({module}.{last}): expected dense ones of numbers"
        )
    if name not in ALLOWED:
        raise UnsupportedFile(f"asks for {f'{module}.{last}'!r}, {NOT_ALLOWED}")
    return ALLOWED[name]


def call(target: object, reader: StorageReader, args: tuple) -> object:
    """Call an allowed global.

    Raises:
      UnsupportedFile: the call asks for something that is not allowed.
      Exception: one of `machine.DECODING_ERRORS`; the arguments do not fit.
    """
    if type(target) is not AllowedGlobal or target.make is None or type(args) is not tuple:
        raise ValueError(f"{target!r:.60} is called")
    return target.make(reader, *args)


def restore(target: object, state: Any, reader: StorageReader) -> None:
    """Set the state of an object, as its class would on BUILD; raises as `call` does."""
    if type(target) is OpaqueObject:
        target.state = state
    elif type(target) is PendingDType:
        if any(part is not None for part in state[2:5]):
            raise UnsupportedFile("holds a numpy array of records: expected plain numbers")
        target.dtype = target.dtype.newbyteorder(state[1])
    elif id(target) in reader.blank:
        _fill(reader.blank.pop(id(target)), *state)
    elif type(target) is not dict:  # an OrderedDict loses its attributes, such as _metadata
        raise ValueError(f"attributes for a {type(target).__name__}")


def hashable(key: object) -> object:
    """Return the key of a dict or the member of a set, if it is flat.

    Hashing a nested tuple can take exponential time: pickles share subtuples.

    Raises:
      ValueError: it is nested, or of a type that is not hashed here.
    """
    parts = key if type(key) is tuple else (key,)
    if not all(
        type(part) in SCALARS or isinstance(part, (np.generic, AllowedGlobal, OpaqueObject))
        for part in parts
    ):
        raise ValueError(f"a {type(key).__name__} is the key of a dict")
    return key


def _fill(blank, version, shape, holder, fortran, raw):
    """Give an empty numpy array its shape, dtype and bytes."""
    raw, dtype = _latin(raw), holder.dtype
    if any(type(n) is not int or n < 0 for n in shape) or prod(shape) * dtype.itemsize != len(raw):
        raise ValueError("a numpy array whose size does not match its bytes")
    native = dtype.newbyteorder("=")
    if native != dtype:
        raw = np.frombuffer(raw, dtype).astype(native).tobytes()
    blank.__setstate__((1, tuple(shape), native, bool(fortran), raw))


def _latin(raw):
    if type(raw) is str:
        return raw.encode("latin-1")
    return bytes(memoryview(raw))  # bytes(n) of an int would be n zeros


def _numpy_dtype(reader, code, *_):
    if type(code) is not str or not re.fullmatch(r"\?|[biufc]\d{1,2}|[SU][1-9]\d{0,4}", code):
        raise UnsupportedFile(f"holds a numpy array of dtype {str(code)[:40]!r}: expected numbers or text")
    return PendingDType(np.dtype(code))


def _numpy_array(reader, *_):
    blank = np.empty(0, np.int8)
    reader.blank[id(blank)] = blank
    return blank


def _numpy_scalar(reader, holder, raw):
    return np.frombuffer(_latin(raw), holder.dtype, 1)[0]


def _tensor(reader, storage, offset, size, stride, *_):
    return reader.tensor(storage, storage.dtype, offset, size, stride)


def _tensor_v2(reader, storage, offset, size, stride, requires_grad, hooks, flags=None):
    return reader.tensor(storage, storage.dtype, offset, size, stride, flags)


def _tensor_v3(reader, storage, offset, size, stride, requires_grad, hooks, dtype, flags=None):
    return reader.tensor(storage, dtype.dtype, offset, size, stride, flags)


def _first(reader, value, *_):
    return value


def _subclass(reader, target, kind, args, state):
    return call(target, reader, args)


def _dict(reader, pairs=()):
    pairs = pairs.items() if type(pairs) is dict else pairs
    return {hashable(key): value for key, value in pairs}


def _empty_dict(reader, factory=None, *_):
    return {}


def _set(kind):
    return lambda reader, items=(): kind(map(hashable, items))


def _of_scalars(function):
    """`function`, refusing arguments that are not numbers or text."""

    def make(reader, *args):
        if any(type(arg) not in SCALARS for arg in args):
            raise ValueError(f"{function.__name__} called with something else than numbers or text")
        return function(*args)

    return make


def _bytes(kind):
    def make(reader, raw=b"", encoding="latin-1", *_):
        if encoding not in ("latin-1", "latin1"):
            raise ValueError(f"bytes in {str(encoding)[:40]!r}")
        return kind(_latin(raw))

    return make


def _device(reader, kind, index=None):
    return kind if index is None else f"{kind}:{index}"


def _reconstruct(reader, target, base=None, contents=None):
    """Build an object as pickle protocols 0 and 1 do."""
    made = call(target, reader, ())
    if type(made) is OpaqueObject and type(contents) is dict:
        made.entries.update(contents)
    return made


def _attribute(reader, target, name):
    """Stand-in for a method of an opaque class, as in the logs of OpenMMLab; nothing is looked up."""
    if type(target) is not AllowedGlobal or target.name not in _OPAQUE_NAMES or type(name) is not str:
        raise UnsupportedFile(f"asks for 'builtins.getattr', {NOT_ALLOWED}")
    return OpaqueObject(f"{target.name}.{name}")


def _opaque(name):
    return lambda reader, *args: OpaqueObject(name, args)


_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
    "_UntypedStorage": np.uint8,  # PyTorch 1.11 and 1.12
}
_DTYPES = (
    *("float64", "float32", "float16", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float8_e5m2", "float8_e5m2fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e8m0fnu"),
)
# Tensors that are not one dense array, and what to call them.
_NOT_DENSE = {
    "_rebuild_qtensor": "quantized",
    **{f"{name}Storage": "quantized" for name in ("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")},
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_wrapper_subclass": "wrapped",
}
_CALLABLE = {
    "builtins getattr": _attribute,
    "builtins set": _set(set),
    "builtins frozenset": _set(frozenset),
    "builtins complex": _of_scalars(complex),
    "builtins slice": _of_scalars(slice),
    "builtins range": _of_scalars(range),
    "builtins bytes": _bytes(bytes),
    "builtins bytearray": _bytes(bytearray),
    "_codecs encode": _bytes(bytes),
    "collections OrderedDict": _dict,
    "collections Counter": _dict,
    "collections defaultdict": _empty_dict,
    "copyreg _reconstructor": _reconstruct,
    "numpy dtype": _numpy_dtype,
    **{f"numpy.{core}.multiarray _reconstruct": _numpy_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _numpy_scalar for core in ("core", "_core")},
    "torch Size": lambda reader, sizes=(): tuple(sizes),
    "torch device": _device,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch.nn.parameter Parameter": _first,
    "torch._tensor _rebuild_from_type_v2": _subclass,
}
_NOT_CALLABLE = (
    *(f"builtins {name}" for name in ("object", "dict", "list", "tuple", "int", "float", "str", "bool")),
    *("numpy ndarray", "torch Tensor"),
)
# Settings and logs in checkpoints of MAE, FastMIM and MixMIM (argparse), Swin and SimMIM (yacs), OpenMMLab,
# Lightning and others.
_OPAQUE = (
    "argparse Namespace",
    "types SimpleNamespace",
    "yacs.config CfgNode",
    "fvcore.common.config CfgNode",
    "detectron2.config.config CfgNode",
    "easydict EasyDict",
    "addict.addict Dict",
    "mmcv.utils.config ConfigDict",
    "mmengine.config.config ConfigDict",
    "mmengine.logging.history_buffer HistoryBuffer",
    "ml_collections.config_dict.config_dict ConfigDict",
    "pytorch_lightning.utilities.parsing AttributeDict",
    "lightning_fabric.utilities.data AttributeDict",
    *(f"omegaconf.{name}" for name in ("dictconfig DictConfig", "listconfig ListConfig")),
    *(f"omegaconf.base {name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.nodes {kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "typing Any",
    *(f"pathlib {kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"pathlib._local {kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"datetime {name}" for name in ("date", "datetime", "timedelta")),
    "torchvision.transforms.functional InterpolationMode",
)
_OPAQUE_NAMES = {name.replace(" ", ".") for name in _OPAQUE}
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")


def _table():
    callables = dict(_CALLABLE)
    callables.update({name: _opaque(name.replace(" ", ".")) for name in _OPAQUE})
    callables.update(dict.fromkeys(_NOT_CALLABLE))
    dtypes = {f"{module} {name}": dtype for name, dtype in _STORAGES.items() for module in _STORAGE_MODULES}
    dtypes.update({f"torch {name}": getattr(ml_dtypes, name, name) for name in _DTYPES})
    table = {name: AllowedGlobal(name.replace(" ", "."), make) for name, make in callables.items()}
    for name, dtype in dtypes.items():
        table[name] = AllowedGlobal(name.replace(" ", "."), None, np.dtype(dtype))
    for ours, theirs in (("builtins ", "__builtin__ "), ("copyreg ", "copy_reg ")):  # names of Python 2
        same = [name for name in table if name.startswith(ours)]
        table.update({name.replace(ours, theirs): table[name] for name in same})
    table["__builtin__ xrange"] = table["builtins range"]
    return table


ALLOWED = _table()
