"""Allow-list: the globals of a pickle from which its arrays and plain data are made.

Each function takes the unpickler and checks its arguments.
"""

import re
from typing import Any

import ml_dtypes
import numpy as np

from fastmim_jax.export.torch_file.arrays import StoredArray, latin_bytes, numpy_array, tensor
from fastmim_jax.export.torch_file.unpickler import OBJECT_BYTES, DType, Entries, StandIn

VIEW_BYTES = 1000  # of a tensor before it is read
_NUMPY_CODE = re.compile(r"\?|[biufc]\d{1,2}|[SU][1-9]\d{0,4}")


def _tensor(unpickler, storage, offset, size, stride, *_, dtype=None, flags=None):
    if type(storage) is StandIn:  # of quantized numbers
        return storage
    operations = tuple(name for name in ("conj", "neg") if flags and flags.get(name))
    unpickler.budget.spend(VIEW_BYTES)
    view = offset, tuple(size), tuple(stride), operations
    return tensor(unpickler.budget, storage, dtype or storage.dtype, *view)


def _tensor_v2(unpickler, storage, offset, size, stride, requires_grad, hooks, flags=None):
    return _tensor(unpickler, storage, offset, size, stride, flags=flags)


def _tensor_v3(unpickler, storage, offset, size, stride, requires_grad, hooks, dtype, flags=None):
    return _tensor(unpickler, storage, offset, size, stride, dtype=dtype.dtype, flags=flags)


def _first(unpickler, value, *_):
    return value


def _call(unpickler, target, *args):
    return target(*args)


def _subclass(unpickler, target, kind, args, state):
    return target(*args)


def _reconstruct(unpickler, target, base=None, contents=None):
    """Objects of pickle protocols 0 and 1."""
    made = target()
    if type(made) is StandIn and type(contents) is Entries:
        made.entries = contents
    return made


def _attribute(unpickler, target: Any, name: Any) -> StandIn:
    """Methods and members of enums by name; nothing is looked up."""
    if type(target) is not StandIn or type(name) is not str:
        raise ValueError("an attribute of a plain value")
    return StandIn(f"{target.name}.{name[:OBJECT_BYTES]}", (), unpickler.unread)


def _dict(unpickler, pairs=()):
    unpickler.budget.spend(OBJECT_BYTES * len(pairs))
    entries = Entries()
    for key, value in pairs.items() if type(pairs) is Entries else pairs:
        entries[key] = value
    return entries


def _empty_dict(unpickler, factory=None, *_):
    return Entries()


def _tuple(unpickler, items=()):
    unpickler.budget.spend(OBJECT_BYTES * len(items))
    return tuple(items)


def _bytes(unpickler, raw=b"", encoding="latin-1", *_):
    if encoding not in ("latin-1", "latin1"):
        raise ValueError(f"bytes in {str(encoding)[:40]!r}")
    unpickler.budget.spend(2 * len(raw))
    return latin_bytes(raw)


def _numpy_dtype(unpickler, code, *_):
    if type(code) is DType:  # of ml_dtypes
        return DType(code.dtype)
    return DType(np.dtype(code) if type(code) is str and _NUMPY_CODE.fullmatch(code) else None)


def _numpy_array(unpickler, *_):
    return StoredArray()  # filled by a BUILD instruction


def _numpy_scalar(unpickler, holder, raw):
    if type(holder) is not DType or holder.dtype is None:
        return StandIn("numpy scalar", (), unpickler.unread)
    return np.frombuffer(latin_bytes(raw), holder.dtype, 1)[0]


def _numpy_from_buffer(unpickler, raw, holder, shape, order, *_):
    """Arrays of numpy in pickle protocol 5."""
    if type(holder) is not DType or holder.dtype is None:
        return StoredArray()
    return StoredArray(numpy_array(unpickler.budget, tuple(shape), holder.dtype, order == "F", raw))


_FUNCTIONS = {
    "builtins getattr": _attribute,
    "builtins bytes": _bytes,
    "builtins bytearray": _bytes,
    "_codecs encode": _bytes,
    "collections OrderedDict": _dict,
    "collections Counter": _dict,
    "collections defaultdict": _empty_dict,
    "copyreg _reconstructor": _reconstruct,
    "copyreg __newobj__": _call,
    "numpy dtype": _numpy_dtype,
    **{f"numpy.{core}.multiarray _reconstruct": _numpy_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _numpy_from_buffer for core in ("core", "_core")},
    "torch Size": _tuple,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch.nn.parameter Parameter": _first,
    "torch._tensor _rebuild_from_type_v2": _subclass,
}
_STORAGES = {
    **{f"{name}Storage": dtype for name, dtype in (("Double", "f8"), ("Float", "f4"), ("Half", "f2"))},
    **{f"{name}Storage": dtype for name, dtype in (("Long", "i8"), ("Int", "i4"), ("Short", "i2"))},
    **{f"{name}Storage": dtype for name, dtype in (("Char", "i1"), ("Byte", "u1"), ("Bool", "?"))},
    **{f"Complex{name}Storage": dtype for name, dtype in (("Float", "c8"), ("Double", "c16"))},
    "BFloat16Storage": ml_dtypes.bfloat16,
    "UntypedStorage": "u1",
    "_UntypedStorage": "u1",  # PyTorch 1.11 and 1.12
}
_DTYPES = (
    *("float64", "float32", "float16", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float8_e5m2", "float8_e5m2fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e8m0fnu"),
)


def _table() -> dict[str, Any]:
    modules = ("torch", "torch.storage", "torch.cuda")
    table = {f"{module} {name}": np.dtype(x) for name, x in _STORAGES.items() for module in modules}
    named = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in _DTYPES}
    table |= {f"{module} {name}": x for name, x in named.items() for module in ("torch", "ml_dtypes")}
    table |= _FUNCTIONS
    for ours, theirs in (("builtins ", "__builtin__ "), ("copyreg ", "copy_reg ")):  # names of Python 2
        table |= {name.replace(ours, theirs): x for name, x in table.items() if name.startswith(ours)}
    return table


CONSTRUCTORS = _table()  # {"module name": dtype or function}
