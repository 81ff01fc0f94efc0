"""Writer of small checkpoints in both formats of torch.save; their globals need not be importable."""

import pickle
import struct
import zipfile

import numpy as np

from fastmim_jax.export.torch_file import reader
from fastmim_jax.export.torch_file.arrays import StoredArray

NUMBERS = np.arange(24, dtype=np.float32)  # content of storage "0"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def several(*parts):
    return b"(" + b"".join(parts) + b"t"


def entries(mapping):
    return b"(" + b"".join(text(name) + value for name, value in mapping.items()) + b"u"


def called(module, name, *args):
    return named(module, name) + several(*args) + b"R"


def tensor(size, stride, offset=0, kind="FloatStorage", key="0", count=24, numbers=number):
    storage = several(text("storage"), named("torch", kind), text(key), text("cpu"), number(count)) + b"Q"
    view = number(offset), several(*map(numbers, size)), several(*map(numbers, stride))
    hooks = called("collections", "OrderedDict")
    return called("torch._utils", "_rebuild_tensor_v2", storage, *view, b"\x89", hooks)


def program(body):
    return b"\x80\x02" + body + b"."


def write_zip(path, pickled, records=None, folder="archive", **others):
    """Write the zip format. others: records beside the pickle, such as byteorder."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", pickled)
        for name, content in others.items():
            archive.writestr(f"{folder}/{name}", content)
        for key, content in (records or {"0": NUMBERS.tobytes()}).items():
            with archive.open(f"{folder}/data/{key}", "w", force_zip64=True) as file:
                file.write(content)
    return path


def write_stream(path, pickled, records=None):
    """Write the format before PyTorch 1.6, for storages of 32-bit values."""
    records = records or {"0": NUMBERS.tobytes()}
    parts = [pickle.dumps(x, 2) for x in (reader.MAGIC, reader.PROTOCOL, {"little_endian": True})]
    parts += [pickled, pickle.dumps(list(records), 2)]
    parts += [struct.pack("<q", len(content) // 4) + content for content in records.values()]
    path.write_bytes(b"".join(parts))
    return path


def read_values(path):
    """Read a checkpoint with all of its arrays, in place of a `StoredArray`."""
    with reader.errors_of(path):
        return _with_arrays(reader.read_pth(path).content)


def _with_arrays(value):
    if isinstance(value, StoredArray):
        return value.read() if value.read else None
    if isinstance(value, dict):
        return {key: _with_arrays(x) for key, x in value.items()}
    return type(value)(map(_with_arrays, value)) if type(value) in (list, tuple) else value
