"""Checkpoints of torch.save, read without PyTorch and without running the code that a file asks for.

A checkpoint is a pickle, which is a program, and the storages of its tensors: in a zip archive
(PyTorch 1.6 and later), or one after the other behind the pickle. `machine` runs the pickle; this module
reads the files and maps the storages.
"""

import io
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.torch_file import machine
from fastmim_jax.export.torch_file.allowlist import UnsupportedFile
from fastmim_jax.export.torch_file.machine import DamagedFile

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files without an archive
LFS = b"version https://git-lfs"
# Copies of tensors may take this many times the file's size, and this many bytes on top of it.
COPIES, SPARE = 8, 2**26


def read_pth(path: str | Path) -> object:
    """Read a checkpoint that torch.save wrote, in either of its formats.

    Returns:
      The object: plain containers (an OrderedDict as a dict), scalars, and a numpy array for every tensor,
      bfloat16 and float8 with the dtypes of ml_dtypes. Arrays are C-contiguous; they map the file
      privately, so that writing to one leaves the file as it is; tied tensors are one array. Settings and
      logs are `allowlist.OpaqueObject`.

    Raises:
      UserError: the file is missing, damaged or of another kind, or it asks for something not allowed.
    """
    path = Path(path)
    try:
        data = _map(path)
        _refuse_others(data[:512])
        return _read_zip(path, data) if data[:4] == b"PK\x03\x04" else _read_stream(data)
    except UnsupportedFile as error:
        raise UserError(f"{path} {error}") from error
    except DamagedFile as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is cut short or damaged ({problem}): expected what torch.save wrote, fetch it again"
        ) from error


class Storage(NamedTuple):
    """Memory behind tensors. data: bytes (N,) uint8; None on a first pass that collects sizes only."""

    key: str | int | tuple
    dtype: np.dtype
    data: np.ndarray | None


class StorageReader:
    """The storages of a file, and the arrays that view them.

    Args:
      fetch: (key, dtype, count) -> bytes (N,) uint8 of at least `count` numbers, or None.
      limit: bytes that copies of tensors may take in total.
      swap: whether the file's byte order differs from this machine's.

    Attributes:
      blank: {id: array}, numpy arrays that a BUILD instruction still has to fill.
    """

    def __init__(self, fetch: Callable | None = None, limit: int = 0, swap: bool = False):
        self._fetch, self._limit, self._swap = fetch, limit, swap
        self._arrays: dict[tuple, np.ndarray] = {}
        self.blank: dict[int, np.ndarray] = {}

    def storage(self, key: str | int, dtype: np.dtype, count: int, view: Sequence | None = None) -> Storage:
        """Return the storage of a key; for a view (key, offset, count), as in older files, a part of it."""
        _check_counts([count])
        if self._fetch is None:
            raise ValueError(f"storage {key} in a part of the file without storages")
        data = self._fetch(key, dtype, count)
        if view is not None:
            _, offset, length = view
            _check_counts([offset, length])
            if offset + length > count:
                raise ValueError(f"a view exceeds storage {key}")
            start = offset * dtype.itemsize
            data = None if data is None else data[start : start + length * dtype.itemsize]
            return Storage((key, offset, length), dtype, data)
        return Storage(key, dtype, data)

    def tensor(
        self,
        storage: Storage,
        dtype: np.dtype,
        offset: int,
        size: Sequence[int],
        stride: Sequence[int],
        flags: dict | None = None,
    ) -> np.ndarray | None:
        """Return the array (*size) at an offset with strides, counted in elements; None without data.

        flags: {"conj": bool, "neg": bool}, lazy conjugation and negation to carry out.
        """
        size, stride = tuple(size), tuple(stride)
        _check_counts([offset, *size, *stride])
        if type(storage) is not Storage or len(size) != len(stride):
            raise ValueError("a tensor without a storage or without strides")
        if storage.data is None:
            return None
        operations = tuple(name for name in ("conj", "neg") if flags and flags.get(name))
        view = (storage.key, dtype, offset, size, stride, operations)
        if view not in self._arrays:
            self._arrays[view] = self._array(storage.data, *view[1:])
        return self._arrays[view]

    def _array(self, data, dtype, offset, size, stride, flags):
        if 0 in size:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= len(data) // dtype.itemsize:
            raise ValueError("a tensor reaches beyond its storage")
        strides = [step * dtype.itemsize for step in stride]
        array = np.ndarray(size, dtype, data, offset * dtype.itemsize, strides)
        if array.flags.c_contiguous and array.flags.aligned and not self._swap and not flags:
            return array
        self._limit -= array.nbytes  # strides may be 0: a small file could fill the memory
        if self._limit < 0:
            raise UnsupportedFile(
                "holds tensors that are many times larger than the file: they were not unfolded"
            )
        array = np.array(array, order="C")
        if self._swap:
            unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            array.reshape(-1).view(f"u{unit}").byteswap(inplace=True)
        for name in flags:
            {"conj": np.conj, "neg": np.negative}[name](array, out=array)
        return array


def _check_counts(numbers):
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a size, stride or offset that is not a count")


def _map(path):
    if path.is_dir():
        raise UnsupportedFile("is a folder: expected a file that torch.save has written")
    try:
        if not path.stat().st_size:
            raise UnsupportedFile("is empty: expected a checkpoint of torch.save, fetch it again")
        with path.open("rb") as file:
            # Private: arrays can be written to, the file is not.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise UnsupportedFile("does not exist: expected a file that torch.save has written") from None
    except OSError as error:
        raise UnsupportedFile(
            f"cannot be read ({error.strerror}): expected a checkpoint of torch.save"
        ) from error


def _refuse_others(head):
    """Raise UnsupportedFile for another kind of file, recognised by its first 512 bytes."""
    if head[:4] == b"PK\x03\x04":
        return
    if head.startswith(LFS):
        raise UnsupportedFile(
            "is the pointer of git-lfs, not the file that it stands for: type git lfs pull"
        )
    if head[257:262] == b"ustar":
        raise UnsupportedFile(
            "is a tar archive, the format of PyTorch before 0.1.10: save it anew with torch.save"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27:
        raise UnsupportedFile("is a safetensors file: expected a checkpoint of torch.save")
    if head.lstrip()[:1] == b"<":
        raise UnsupportedFile("is a web page, such as a failed download leaves: fetch the checkpoint again")
    if not head.startswith(b"\x80") and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        start = head.split(b"\n")[0][:40].decode()
        raise UnsupportedFile(f"is text that starts with {start!r}: expected a checkpoint of torch.save")


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
    folder = _folder(records)
    file_bytes = np.frombuffer(data, np.uint8)
    loaded = {}

    def record(name):
        if name not in loaded:
            loaded[name] = _record(file_bytes, records[folder + name])
        return loaded[name]

    def fetch(key, dtype, count):
        storage = record(f"data/{key}")
        if count * dtype.itemsize > len(storage):
            raise ValueError(f"storage {key} has fewer bytes than it needs")
        return storage[: count * dtype.itemsize]

    byte_order = bytes(record("byteorder")) if folder + "byteorder" in records else b"little"
    if byte_order not in (b"little", b"big"):
        raise DamagedFile(f"byte order {byte_order[:20]!r}")
    swap = byte_order.decode() != sys.byteorder
    return machine.run(
        io.BytesIO(record("data.pkl")), StorageReader(fetch, COPIES * len(data) + SPARE, swap)
    )


def _folder(records):
    """Return the prefix of all names of a checkpoint's records, "" or "NAME/"."""
    folders = [name.removesuffix("data.pkl") for name in records if f"/{name}".endswith("/data.pkl")]
    if not folders:
        names = ", ".join(sorted(records)[:3]) or "nothing"
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
    if machine.run(data, StorageReader()) != MAGIC:
        raise UnsupportedFile(
            "is a pickle, but not of torch.save: expected torch.save(model.state_dict(), path)"
        )
    if machine.run(data, StorageReader()) != PROTOCOL:
        raise DamagedFile("another protocol")
    machine.run(data, StorageReader())  # facts about the machine that wrote it
    start = data.tell()

    # The storages follow the pickle, and their offsets depend on their sizes: a first pass collects those.
    sizes = {}

    def collect(key, dtype, count):
        if sizes.setdefault(key, (dtype.itemsize, count)) != (dtype.itemsize, count):
            raise ValueError(f"storage {key} has two sizes")

    machine.run(data, StorageReader(collect))
    keys = machine.run(data, StorageReader())
    storages = _storages(np.frombuffer(data, np.uint8), data.tell(), keys, sizes)
    data.seek(start)
    return machine.run(data, StorageReader(lambda key, *_: storages[key], COPIES * len(data) + SPARE))


def _storages(file_bytes, position, keys, sizes):
    """Return {key: bytes (N,)} from, per key in turn, a count of 8 bytes and `count` numbers."""
    if type(keys) is not list or any(type(key) not in (str, int) or key not in sizes for key in keys):
        raise DamagedFile("the list of its storages does not match its tensors")
    storages = {}
    for key in keys:
        itemsize, count = sizes[key]
        if int.from_bytes(bytes(file_bytes[position : position + 8]), "little") != count:
            raise DamagedFile(f"storage {key} has another size than its tensors expect")
        storages[key] = file_bytes[position + 8 : position + 8 + count * itemsize]
        if len(storages[key]) != count * itemsize:
            raise DamagedFile(f"storage {key} exceeds the file")
        position += 8 + count * itemsize
    return storages
