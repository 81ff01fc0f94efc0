"""Arrays of a checkpoint that are read when they are needed, within a budget of memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

# What a file may take in memory: this many times its size, and this many bytes on top of it.
COPIES, SPARE = 8, 2**26


class UnsupportedFile(Exception):
    """A file that cannot be read. The message follows the file's name: "is empty: expected ..."."""


class DamagedFile(Exception):
    """A file that does not decode. The message says what was found."""


class Budget:
    """Bytes that a file of a size may still take in memory."""

    def __init__(self, size: int):
        self.left = COPIES * size + SPARE

    def spend(self, count: int) -> None:
        """Take bytes from the budget.

        Raises:
          UnsupportedFile: there are not as many left.
        """
        self.left -= count
        if self.left < 0:
            raise UnsupportedFile(
                "holds values that take many times the file's size in memory: they were not unfolded"
            )


@dataclass(eq=False, slots=True)
class StoredArray:
    """An array of a file; read: makes it; None for one of Python objects, which is never read."""

    read: Callable[[], np.ndarray] | None = None


@dataclass(eq=False, slots=True)
class Storage:
    """Memory behind tensors: `count` numbers from number `start` on.

    fetch: -> bytes (N,) uint8 of the whole storage. swap: whether their order is not this machine's.
    """

    dtype: np.dtype
    start: int
    count: int
    fetch: Callable[[], np.ndarray]
    swap: bool = False


def tensor(
    budget: Budget,
    storage: Storage,
    dtype: np.dtype,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    operations: Sequence[str] = (),
) -> StoredArray:
    """Return a tensor: (*size) numbers of a storage, with offset and strides counted in numbers.

    It is C-contiguous and maps the file where its numbers lie there in this order.

    Args:
      operations: lazy ones to carry out, "conj" or "neg".

    Raises:
      ValueError: it reaches beyond its storage.
    """
    check_counts((offset, *size, *stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * dtype.itemsize > storage.count * storage.dtype.itemsize:
        raise ValueError("a tensor reaches beyond its storage")

    def read() -> np.ndarray:
        if 0 in size:
            return np.empty(size, dtype)
        start = storage.start * storage.dtype.itemsize + offset * dtype.itemsize
        strides = [step * dtype.itemsize for step in stride]
        array = np.ndarray(size, dtype, storage.fetch(), start, strides)
        if array.flags.c_contiguous and array.flags.aligned and not storage.swap and not operations:
            return array
        budget.spend(array.nbytes)  # strides may be 0: a small file could fill the memory
        array = np.array(array, order="C")
        if storage.swap:
            unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            array.reshape(-1).view(f"u{unit}").byteswap(inplace=True)
        for name in operations:
            {"conj": np.conj, "neg": np.negative}[name](array, out=array)
        return array

    return StoredArray(read)


def numpy_array(
    budget: Budget, shape: Sequence[int], dtype: np.dtype, fortran: bool, raw: str | bytes | bytearray
) -> Callable[[], np.ndarray]:
    """Return the function that makes a numpy array of its bytes, in this machine's byte order.

    Raises:
      ValueError: there are more or fewer bytes.
    """
    check_counts(shape)
    if prod(shape) * dtype.itemsize != len(raw):
        raise ValueError("a numpy array whose size does not match its bytes")

    def read() -> np.ndarray:
        budget.spend(2 * len(raw))
        array = np.ndarray(shape, dtype, latin_bytes(raw), order="F" if fortran else "C")
        return np.array(array, dtype.newbyteorder("="), order="C")

    return read


def latin_bytes(raw: str | bytes | bytearray) -> bytes:
    """Return bytes, also of text in which each character stands for one."""
    return raw.encode("latin-1") if isinstance(raw, str) else bytes(memoryview(raw))


def check_counts(numbers: Sequence[int]) -> None:
    """Raise ValueError for anything but whole numbers from 0."""
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a size, stride or offset that is not a count")
