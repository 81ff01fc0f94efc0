"""Checkpoints of torch.save, read without PyTorch and without running anything that a file asks for.

A checkpoint is a pickle, which is a program, and the memory of its tensors beside it: in a zip archive
(PyTorch 1.6 and later), or one after the other behind the pickle. `pickled` carries out what is
harmless of the program; here are the files, and the tensors' way into their memory.
"""

import io
import mmap
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.torch_file import machine as pickled
from fastmim_jax.export.torch_file.allowlist import UnsupportedFile

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files without an archive
LFS = b"version https://git-lfs"
# Copies of tensors may take this many times the file's size, and so many bytes on top of it.
COPIES, SPARE = 8, 2**26


def read_pth(path):
    """Reads a checkpoint that torch.save has written, in either of its formats.

    Returns:
      The object: plain containers (an OrderedDict as a dict), scalars, and a numpy array for every
      tensor, bfloat16 and float8 as of ml_dtypes. Arrays are C-contiguous; they look into the file,
      which is read as they are used and never written to; tensors that were one are one array.
      Settings and logs of known classes are `known.OpaqueObject`.

    Raises:
      UserError: no such file, damaged, of another kind, or it asks for what is not known.
    """
    path = Path(path)
    try:
        whole = _map(path)
        _refuse_others(whole[:512])
        read = _read_zip if whole[:4] == b"PK\x03\x04" else _read_stream
        return read(path, whole)
    except UnsupportedFile as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # a damaged file may break anything
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path} is cut short or damaged ({problem}): expected what torch.save wrote, fetch it again"
        ) from error


class Storage(NamedTuple):
    """Memory that tensors look into. data: bytes (N,) uint8; None while it is not known where they are."""

    key: object
    dtype: np.dtype
    data: np.ndarray | None


class StorageReader:
    """The storages of a file, and the arrays that look into them.

    Args:
      fetch: (key, dtype, count) -> bytes (N,) uint8 of at least that many numbers, or None.
      limit: bytes that copies of tensors may take, all together.
      swap: the file's byte order is not this machine's.
    """

    def __init__(self, fetch=None, limit=0, swap=False):
        self._fetch, self._limit, self._swap = fetch, limit, swap
        self._arrays = {}
        self.blank = {}  # {id: array}, numpy's own that are still to be filled

    def storage(self, key, dtype, count, view=None):
        """The storage of a key; a part of it for a view (key, offset, count), as older files may have."""
        _check_counts([count])
        data = self._fetch(key, dtype, count)
        if view is not None:
            _, offset, length = view
            _check_counts([offset, length])
            if offset + length > count:
                raise ValueError(f"a view leaves storage {key}")
            start, key = offset * dtype.itemsize, (key, offset, length)
            data = None if data is None else data[start : start + length * dtype.itemsize]
        return Storage(key, dtype, data)

    def tensor(self, storage, dtype, offset, size, stride, flags=None):
        """Array (*size) of what lies at an offset and with strides, all counted in elements; None as yet.

        flags: {"conj": bool, "neg": bool}, where the values are still to be conjugated or negated.
        """
        size, stride = tuple(size), tuple(stride)
        _check_counts([offset, *size, *stride])
        if type(storage) is not Storage or len(size) != len(stride):
            raise ValueError("a tensor without a storage or without strides")
        if storage.data is None:
            return None
        flags = tuple(name for name in ("conj", "neg") if flags and flags.get(name))
        place = (storage.key, dtype, offset, size, stride, flags)
        if place not in self._arrays:
            self._arrays[place] = self._array(storage.data, *place[1:])
        return self._arrays[place]

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
        self._limit -= array.nbytes  # strides may be 0, so that a small file would fill any memory
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
        raise ValueError("a size, stride or offset that is no count")


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
    """Tells what a file is that is no checkpoint, by its first 512 bytes."""
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


def _read_zip(path, whole):
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise UnsupportedFile(
            "is cut short: the end of its zip archive is missing, fetch it again"
        ) from error
    folder = _folder(records)
    bytes_of = np.frombuffer(whole, np.uint8)
    found = {}

    def record(name):
        if name not in found:
            found[name] = _record(bytes_of, records[folder + name])
        return found[name]

    def fetch(key, dtype, count):
        data = record(f"data/{key}")
        if count * dtype.itemsize > len(data):
            raise ValueError(f"storage {key} has fewer bytes than it needs")
        return data[: count * dtype.itemsize]

    order = bytes(record("byteorder")).decode() if folder + "byteorder" in records else "little"
    if order not in ("little", "big"):
        raise ValueError(f"byte order {order[:20]!r}")
    memory = StorageReader(fetch, COPIES * len(whole) + SPARE, order != sys.byteorder)
    return pickled.run(io.BytesIO(record("data.pkl")), memory)


def _folder(records):
    """What all names of a checkpoint's records start with."""
    folders = [name.removesuffix("data.pkl") for name in records if f"/{name}".endswith("/data.pkl")]
    if not folders:
        names = ", ".join(sorted(records)[:3]) or "nothing"
        raise UnsupportedFile(f"is a zip of {names}, without data.pkl: expected a checkpoint of torch.save")
    folder = min(folders, key=len)
    if folder + "constants.pkl" in records or any(name.startswith(folder + "code/") for name in records):
        raise UnsupportedFile("is a TorchScript program: expected torch.save(model.state_dict(), path)")
    return folder


def _record(whole, info):
    """Bytes (N,) of a record of an archive, in their place in the file."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise UnsupportedFile(
            "is a compressed zip archive, as torch.save writes none: pack it anew with zip -0"
        )
    start = info.header_offset
    local = bytes(whole[start : start + 30])
    start += 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    data = whole[start : start + info.file_size]
    if local[:4] != b"PK\x03\x04" or len(data) != info.file_size:
        raise ValueError(f"{info.filename} lies outside of the file")
    if info.CRC and zlib.crc32(data) != info.CRC:  # 0 where PyTorch was told to write no checksums
        raise ValueError(f"{info.filename} does not match its checksum")
    return data


def _read_stream(path, whole):
    if pickled.run(whole, StorageReader()) != MAGIC:
        raise UnsupportedFile(
            "is a pickle, but not of torch.save: expected torch.save(model.state_dict(), path)"
        )
    if pickled.run(whole, StorageReader()) != PROTOCOL:
        raise ValueError("another protocol")
    pickled.run(whole, StorageReader())  # on the machine that has written it
    start = whole.tell()

    # Where storages lie is only known when the size of each is: the pickle is run twice.
    sizes = {}

    def note(key, dtype, count):
        if sizes.setdefault(key, (dtype.itemsize, count)) != (dtype.itemsize, count):
            raise ValueError(f"storage {key} has two sizes")

    pickled.run(whole, StorageReader(note))
    keys = pickled.run(whole, StorageReader())
    found = _places(np.frombuffer(whole, np.uint8), whole.tell(), keys, sizes)
    whole.seek(start)
    return pickled.run(whole, StorageReader(lambda key, *_: found[key], COPIES * len(whole) + SPARE))


def _places(whole, position, keys, sizes):
    """{key: bytes}: a count of 8 bytes and that many numbers for each key, in turn."""
    found = {}
    for key in keys:
        itemsize, count = sizes[key]
        if int.from_bytes(bytes(whole[position : position + 8]), "little") != count:
            raise ValueError(f"storage {key} is of another size")
        found[key] = whole[position + 8 : position + 8 + count * itemsize]
        if len(found[key]) != count * itemsize:
            raise ValueError(f"storage {key} leaves the file")
        position += 8 + count * itemsize
    return found
