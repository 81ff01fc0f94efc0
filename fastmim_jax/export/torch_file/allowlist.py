"""All that a checkpoint's pickle may name, and what is made of it: this table, and nothing outside it.

No name is imported or looked up in a module. What can be called is a function of this file, which
checks what it is given; classes that are of no use here become `OpaqueObject`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import ml_dtypes
import numpy as np

SCALARS = (int, float, complex, bool, str, bytes, type(None))
NEEDLESS = "which no checkpoint of arrays needs: it was refused and nothing of it was run"


class UnsupportedFile(Exception):
    """What is told of a file that is not read, to be put after its name."""


class OpaqueObject:
    """Stands for an object of a class that is of no use here; nothing of that class is imported or run.

    name: of the class, "module.class". args: given to its constructor. state: what was to be restored,
    a dict of its attributes in most cases. entries, items: what it holds as a kind of dict or list.
    """

    __slots__ = ("name", "args", "state", "entries", "items")

    def __init__(self, name, args=()):
        self.name, self.args, self.state, self.entries, self.items = name, args, None, {}, []

    def __repr__(self):
        return f"<{self.name}, not loaded>"


@dataclass(frozen=True, eq=False)
class AllowedGlobal:
    """What a file may name.

    make: (memory, *args) -> value, memory as `unpickle.StorageReader`; None where it cannot be called.
    dtype: of a torch.dtype, or of a class of storages.
    """

    name: str
    make: Callable | None = None
    dtype: np.dtype | None = None

    def __repr__(self):
        return self.name


class DType:
    """A numpy dtype whose byte order is still to come."""

    def __init__(self, dtype):
        self.dtype = dtype


def find(name):
    """What is known under "module name".

    Raises:
      Refused: nothing is.
    """
    module, _, last = name.partition(" ")
    if last in _ARRAYLESS and module in ("torch", "torch._utils"):
        raise UnsupportedFile(
            f"holds a {_ARRAYLESS[last]} tensor ({module}.{last}): expected dense ones of numbers"
        )
    if name not in ALLOWED:
        raise UnsupportedFile(f"asks for {f'{module}.{last}'!r}, {NEEDLESS}")
    return ALLOWED[name]


def call(known, memory, args):
    """What a known thing makes of a tuple of arguments; an exception of any kind where it cannot."""
    if type(known) is not AllowedGlobal or known.make is None or type(args) is not tuple:
        raise ValueError(f"{known!r:.60} is called")
    return known.make(memory, *args)


def restore(target, state, memory):
    """Gives an object what its class would restore."""
    if type(target) is OpaqueObject:
        target.state = state
    elif type(target) is DType:
        if any(part is not None for part in state[2:5]):
            raise UnsupportedFile("holds a numpy array of records: expected plain numbers")
        target.dtype = target.dtype.newbyteorder(state[1])
    elif id(target) in memory.blank:
        _fill(memory.blank.pop(id(target)), *state)
    elif type(target) is not dict:  # the attributes of an OrderedDict are dropped, such as _metadata
        raise ValueError(f"attributes for a {type(target).__name__}")


def hashable(key):
    """The key of a dict. Only flat ones: to hash a tuple of twice a tuple of twice ... takes for ever."""
    parts = key if type(key) is tuple else (key,)
    if not all(
        type(part) in SCALARS or isinstance(part, (np.generic, AllowedGlobal, OpaqueObject))
        for part in parts
    ):
        raise ValueError(f"a {type(key).__name__} is the key of a dict")
    return key


def _fill(blank, version, shape, holder, fortran, raw):
    """Gives a new numpy array its shape, dtype and bytes."""
    raw, dtype = _latin(raw), holder.dtype
    if any(type(n) is not int or n < 0 for n in shape) or prod(shape) * dtype.itemsize != len(raw):
        raise ValueError("a numpy array of another size than its bytes")
    native = dtype.newbyteorder("=")
    if native != dtype:
        raw = np.frombuffer(raw, dtype).astype(native).tobytes()
    blank.__setstate__((1, tuple(shape), native, bool(fortran), raw))


def _latin(raw):
    if type(raw) is str:
        return raw.encode("latin-1")
    return bytes(memoryview(raw))  # of a number, bytes() would be that many zeros


def _numpy_dtype(memory, code, *_):
    if type(code) is not str or not re.fullmatch(r"\?|[biufc]\d{1,2}|[SU][1-9]\d{0,4}", code):
        raise UnsupportedFile(f"holds a numpy array of dtype {str(code)[:40]!r}: expected numbers or text")
    return DType(np.dtype(code))


def _numpy_array(memory, *_):
    blank = np.empty(0, np.int8)
    memory.blank[id(blank)] = blank
    return blank


def _numpy_scalar(memory, holder, raw):
    return np.frombuffer(_latin(raw), holder.dtype, 1)[0]


def _tensor(memory, storage, offset, size, stride, *_):
    return memory.tensor(storage, storage.dtype, offset, size, stride)


def _tensor_v2(memory, storage, offset, size, stride, requires_grad, hooks, flags=None):
    return memory.tensor(storage, storage.dtype, offset, size, stride, flags)


def _tensor_v3(memory, storage, offset, size, stride, requires_grad, hooks, known, flags=None):
    return memory.tensor(storage, known.dtype, offset, size, stride, flags)


def _first(memory, value, *_):
    return value


def _subclass(memory, known, kind, args, state):
    return call(known, memory, args)


def _dict(memory, pairs=()):
    pairs = pairs.items() if type(pairs) is dict else pairs
    return {hashable(key): value for key, value in pairs}


def _empty_dict(memory, factory=None, *_):
    return {}


def _set(kind):
    return lambda memory, items=(): kind(map(hashable, items))


def _plainly(function):
    """Called with numbers and text only."""

    def make(memory, *args):
        if any(type(arg) not in SCALARS for arg in args):
            raise ValueError(f"{function.__name__} of what is no number")
        return function(*args)

    return make


def _bytes(kind):
    def make(memory, raw=b"", encoding="latin-1", *_):
        if encoding not in ("latin-1", "latin1"):
            raise ValueError(f"bytes in {str(encoding)[:40]!r}")
        return kind(_latin(raw))

    return make


def _device(memory, kind, index=None):
    return kind if index is None else f"{kind}:{index}"


def _reconstruct(memory, known, base=None, held=None):
    """Objects of pickle's older protocols."""
    made = call(known, memory, ())
    if type(made) is OpaqueObject and type(held) is dict:
        made.entries.update(held)
    return made


def _attribute(memory, known, name):
    """A method of a class that is not loaded, as the logs of OpenMMLab have; nothing is looked up."""
    if type(known) is not AllowedGlobal or known.name not in _INERT_NAMES or type(name) is not str:
        raise UnsupportedFile(f"asks for 'builtins.getattr', {NEEDLESS}")
    return OpaqueObject(f"{known.name}.{name}")


def _inert(name):
    return lambda memory, *args: OpaqueObject(name, args)


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
# What has no array of its own, and what to call it.
_ARRAYLESS = {
    "_rebuild_qtensor": "quantized",
    **{f"{name}Storage": "quantized" for name in ("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")},
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_wrapper_subclass": "wrapped",
}
_MADE = {
    "builtins getattr": _attribute,
    "builtins set": _set(set),
    "builtins frozenset": _set(frozenset),
    "builtins complex": _plainly(complex),
    "builtins slice": _plainly(slice),
    "builtins range": _plainly(range),
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
    "torch Size": lambda memory, sizes=(): tuple(sizes),
    "torch device": _device,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch.nn.parameter Parameter": _first,
    "torch._tensor _rebuild_from_type_v2": _subclass,
}
_NAMED = (
    *(f"builtins {name}" for name in ("object", "dict", "list", "tuple", "int", "float", "str", "bool")),
    *("numpy ndarray", "torch Tensor"),
)
# Settings and logs of MAE, FastMIM, MixMIM (argparse), Swin, SimMIM (yacs), OpenMMLab, Lightning, others.
_INERT = (
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
_INERT_NAMES = {name.replace(" ", ".") for name in _INERT}
_PLACES = ("torch", "torch.storage", "torch.cuda")


def _table():
    made = dict(_MADE)
    made.update({name: _inert(name.replace(" ", ".")) for name in _INERT})
    made.update(dict.fromkeys(_NAMED))
    dtypes = {f"{place} {name}": dtype for name, dtype in _STORAGES.items() for place in _PLACES}
    dtypes.update({f"torch {name}": getattr(ml_dtypes, name, name) for name in _DTYPES})
    known = {name: AllowedGlobal(name.replace(" ", "."), make) for name, make in made.items()}
    known.update(
        {name: AllowedGlobal(name.replace(" ", "."), None, np.dtype(x)) for name, x in dtypes.items()}
    )
    for ours, theirs in (("builtins ", "__builtin__ "), ("copyreg ", "copy_reg ")):  # names of Python 2
        same = [name for name in known if name.startswith(ours)]
        known.update({name.replace(ours, theirs): known[name] for name in same})
    known["__builtin__ xrange"] = known["builtins range"]
    return known


ALLOWED = _table()
