"""Checkpoints of torch.save, read without PyTorch and without running the code that a file asks for.

A checkpoint is a pickle, which is a program, and the storages of its tensors: in a zip archive
(PyTorch 1.6 and later), or one after the other behind the pickle. `unpickler` runs the pickle; this module
reads the files and maps the storages.
"""

import io
import mmap
import pickle
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.torch_file.arrays import Budget, DamagedFile, Storage, UnsupportedFile, check_counts
from fastmim_jax.export.torch_file.constructors import CONSTRUCTORS
from fastmim_jax.export.torch_file.unpickler import CheckpointUnpickler

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files without an archive
# Errors that the instructions of a damaged pickle lead to.
DECODING_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    struct.error,
    ValueError,  # undecodable text, and of the checks here
    LookupError,  # an empty stack, a number without a memo, a storage without a record
    TypeError,  # a function with values of other types than it takes
    AttributeError,
    ArithmeticError,  # a number beyond 64 bits
    RecursionError,
    MemoryError,
)


class Checkpoint(NamedTuple):
    """Content of a checkpoint.

    Attributes:
      content: plain containers (an OrderedDict as a dict) and scalars, an `arrays.StoredArray` for every
        tensor and numpy array, an `unpickler.StandIn` for any other object.
      unread: number of objects without a constructor, by the name of their class.
    """

    content: object
    unread: Counter[str]


def read_pth(path: str | Path) -> Checkpoint:
    """Read a checkpoint that torch.save wrote, in either of its formats, or a pickle of numpy arrays.

    Its arrays are C-contiguous; most map the file privately, so that writing to one leaves the file as it
    is. The dtypes of bfloat16 and float8 are those of ml_dtypes.

    Raises:
      UserError: the file is missing, damaged or of another kind.
    """
    with errors_of(path):
        data = _map(Path(path))
        is_archive = data[:4] == b"PK\x03\x04"
        return _read_zip(path, data) if is_archive else _read_stream(data)


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Turn the errors of a file, also of reading its arrays, into a UserError that names it."""
    try:
        yield
    except UnsupportedFile as error:
        raise UserError(f"{path} {error}") from error
    except (DamagedFile, *DECODING_ERRORS) as error:
        kind = "" if isinstance(error, DamagedFile) else f"{type(error).__name__}: "
        problem = " ".join(f"{kind}{error}".split())[:200]
        raise UserError(
            f"{path} is cut short or damaged ({problem}): expected what torch.save wrote, fetch it again"
        ) from error


def _map(path):
    try:
        with path.open("rb") as file:
            # Private: arrays can be written to, the file is not.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise UnsupportedFile(
            f"cannot be read ({error.strerror}): expected a checkpoint of torch.save"
        ) from error


def _read_zip(path, data):
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise UnsupportedFile(
            "is cut short: the end of its zip archive is missing, fetch it again"
        ) from error
    except (ValueError, NotImplementedError, OSError, struct.error) as error:
        raise DamagedFile(f"zip archive: {error}") from error
    folder, file_bytes = _folder(records), np.frombuffer(data, np.uint8)
    loaded = {}

    def record(name):
        if name not in loaded:
            loaded[name] = _record(file_bytes, records[folder + name])
            if sum(map(len, loaded.values())) > len(data):
                raise DamagedFile("records of its zip archive overlap")
        return loaded[name]

    def storage(key, dtype, count, view=None):
        if count * dtype.itemsize > records[f"{folder}data/{key}"].file_size:
            raise ValueError(f"storage {key} has fewer bytes than it needs")
        return _storage(partial(record, f"data/{key}"), dtype, count, view, swap)

    byte_order = bytes(record("byteorder")) if folder + "byteorder" in records else b"little"
    if byte_order not in (b"little", b"big"):
        raise DamagedFile(f"byte order {byte_order[:20]!r}")
    swap = byte_order.decode() != sys.byteorder
    return _unpickle(io.BytesIO(record("data.pkl")), storage, Budget(len(data)))


def _storage(
    fetch: Callable[[], np.ndarray], dtype: np.dtype, count: int, view: Any = None, swap: bool = False
) -> Storage:
    """Return a storage; view: (key, offset, count) of a part of it, as in older files."""
    start, length = (0, count) if view is None else view[1:]
    check_counts((count, start, length))
    if start + length > count:
        raise ValueError("a view exceeds its storage")
    return Storage(dtype, start, length, fetch, swap)


def _unpickle(file: BinaryIO | mmap.mmap, storage: Callable[..., Storage], budget: Budget) -> Checkpoint:
    unread: Counter[str] = Counter()
    content = CheckpointUnpickler(file, CONSTRUCTORS, storage, budget, unread).load()
    return Checkpoint(content, unread)


def _folder(records):
    """Return the prefix of all names of a checkpoint's records, "" or "NAME/"."""
    folders = [name.removesuffix("data.pkl") for name in records if f"/{name}".endswith("/data.pkl")]
    if not folders:
        names = ", ".join(sorted(records)[:3]) or "nothing"
        if records and all(name.endswith(".npy") for name in records):
            raise UnsupportedFile("is a NumPy archive (.npz): save the arrays with safetensors")
        raise UnsupportedFile(f"is a zip of {names}, without data.pkl: expected a checkpoint of torch.save")
    folder = min(folders, key=len)
    if folder + "constants.pkl" in records or any(name.startswith(folder + "code/") for name in records):
        raise UnsupportedFile("is a TorchScript program: expected torch.save(model.state_dict(), path)")
    return folder


def _record(file_bytes, info):
    """Return the bytes (N,) of a record of an archive, a view of the file's."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise UnsupportedFile(
            "is a compressed zip archive, which torch.save never writes: pack it again with zip -0"
        )
    start = info.header_offset
    header = bytes(file_bytes[start : start + 30])
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    data = file_bytes[start : start + info.file_size]
    if header[:4] != b"PK\x03\x04" or len(data) != info.file_size:
        raise DamagedFile(f"{info.filename} lies outside of the file")
    if info.CRC and zlib.crc32(data) != info.CRC:  # PyTorch writes 0 where checksums are off
        raise DamagedFile(f"{info.filename} does not match its checksum")
    return data


def _read_stream(data):
    budget, sizes, places = Budget(len(data)), {}, {}
    file_bytes = np.frombuffer(data, np.uint8)

    def storage(key, dtype, count, view=None):
        if sizes.setdefault(key, (dtype.itemsize, count)) != (dtype.itemsize, count):
            raise ValueError(f"storage {key} has two sizes")
        return _storage(partial(fetch, key, count * dtype.itemsize), dtype, count, view)

    def fetch(key, size):
        if key not in places:
            raise DamagedFile(f"storage {key} is not in its list, or behind one of numbers of unknown size")
        return file_bytes[places[key] : places[key] + size]

    first = _unpickle(data, storage, budget)
    if first.content != MAGIC:
        return first  # a pickle, such as one of numpy arrays
    if _unpickle(data, storage, budget).content != PROTOCOL:
        raise DamagedFile("another protocol")
    _unpickle(data, storage, budget)  # facts about the machine that wrote it
    checkpoint = _unpickle(data, storage, budget)
    keys = _unpickle(data, storage, budget).content
    places.update(_find_storages(file_bytes, data.tell(), keys, sizes))
    return checkpoint


def _find_storages(file_bytes, position, keys, sizes):
    """Return {key: position}: for each key in turn the file has a count of 8 bytes, and `count` numbers."""
    if type(keys) is not list or any(type(key) not in (str, int) for key in keys):
        raise DamagedFile("the list of its storages holds something else than keys")
    places = {}
    for key in keys:
        if key not in sizes:  # such as of quantized numbers
            break
        itemsize, count = sizes[key]
        if int.from_bytes(bytes(file_bytes[position : position + 8]), "little") != count:
            raise DamagedFile(f"storage {key} has another size than its tensors expect")
        places[key] = position + 8
        position += 8 + count * itemsize
    if position > len(file_bytes):
        raise DamagedFile("its storages exceed the file")
    return places
