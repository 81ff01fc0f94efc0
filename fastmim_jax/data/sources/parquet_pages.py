"""Single values of a binary column of a parquet file, read by page; pyarrow reads whole row groups.

Source: the format of Apache Parquet, github.com/apache/parquet-format (Encodings.md, parquet.thrift).
"""

import functools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.sources.pread import FileStamp, read_at

_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD")
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # types of pages
_PLAIN, _DICTIONARY_ENCODINGS = 0, (2, 8)  # encodings of values
_RLE = 3  # encoding of levels
_HEADER_BYTES = 1024, 65536  # tried in this order
_LARGEST_PAGE = 4 * 2**20  # bytes: a column with larger ones is left to pyarrow
_CACHED_PAGES = 8  # decompressed, per process: for reading in order


class Page(NamedTuple):
    """A page of values.

    offset, stored: where its bytes are. size: bytes when decompressed.
    levels: (bytes of repetition levels, of definition levels) that precede the values uncompressed, or None
      where the definition levels are part of the compressed values. compressed: whether the values are.
    """

    offset: int
    stored: int
    size: int
    encoding: int
    levels: tuple[int, int] | None
    compressed: bool


class ColumnPages(NamedTuple):
    """The pages of a column in a row group.

    starts: first row of each page, and the number of rows. max_level: definition level of a value.
    """

    codec: str
    max_level: int
    dictionary: Page | None
    pages: tuple[Page, ...]
    starts: tuple[int, ...]


class _UnsupportedError(Exception):
    """A page of another form than those that are read here."""


def find_pages(file: FileStamp, metadata: Any, group: int, path: str) -> ColumnPages | None:
    """Return the pages of a column, or None if they have a form that only pyarrow reads.

    Args:
      metadata: pyarrow.parquet.FileMetaData of the file.
      group: number of the row group.
      path: of the column, such as "image.bytes".

    Raises:
      OSError: the file is shorter.
    """
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    number = next((number for number, column in enumerate(columns) if column.path == path), None)
    if number is None or columns[number].max_repetition_level:
        return None
    chunk = metadata.row_group(group).column(number)
    if chunk.compression not in _CODECS or chunk.physical_type != "BYTE_ARRAY":
        return None
    first = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    dictionary, pages, starts = None, [], [0]
    try:
        for kind, page, values in _read_headers(file, first, first + chunk.total_compressed_size):
            if kind == _DICTIONARY:
                dictionary = page
            else:
                pages.append(page)
                starts.append(starts[-1] + values)
    except (_UnsupportedError, IndexError, KeyError):
        return None
    if starts[-1] != metadata.row_group(group).num_rows:
        return None
    max_level = columns[number].max_definition_level
    return ColumnPages(chunk.compression, max_level, dictionary, tuple(pages), tuple(starts))


def read_value(file: FileStamp, column: ColumnPages, row: int) -> bytes | None:
    """Return the value in a row of a row group, None for null; raises OSError if the file is damaged."""
    number = bisect_right(column.starts, row) - 1
    page, row = column.pages[number], row - column.starts[number]
    rows = column.starts[number + 1] - column.starts[number]
    levels, values = _read_page(file, page, column.codec, column.max_level)
    if column.max_level:
        present = _decode_runs(levels, column.max_level.bit_length(), rows) == column.max_level
        if not present[row]:
            return None
        row = int(np.count_nonzero(present[:row]))
    if page.encoding == _PLAIN:
        return _plain_value(values, row)
    if column.dictionary is None:
        raise OSError("a dictionary of the parquet file is missing")
    index = int(_decode_runs(values[1:], values[0], row + 1)[row])
    _, dictionary = _read_page(file, column.dictionary, column.codec, 0)
    return _plain_value(dictionary, index)


def _read_headers(file: FileStamp, offset: int, end: int) -> Iterator[tuple[int, Page, int]]:
    """Yield (type, Page, number of values) of the pages between two offsets."""
    while offset < end:
        header, length = _read_header(file, offset, end)
        kind, size, stored = header[1], header[2], header[3]
        offset += length
        levels, compressed = None, True
        if kind == _DATA:
            detail = header[5]
            supported = detail[3] == _RLE and detail[2] in (_PLAIN, *_DICTIONARY_ENCODINGS)
            encoding = detail[2]
        elif kind == _DATA_V2:
            detail = header[8]
            encoding, compressed = detail[4], detail.get(7, True)
            supported = encoding in (_PLAIN, *_DICTIONARY_ENCODINGS)
            levels = detail[6], detail[5]
        elif kind == _DICTIONARY:
            detail, encoding = header[7], _PLAIN
            supported = detail[2] in (_PLAIN, _DICTIONARY_ENCODINGS[0])
        else:
            raise _UnsupportedError
        if not supported or max(size, stored) > _LARGEST_PAGE:
            raise _UnsupportedError
        yield kind, Page(offset, stored, size, encoding, levels, compressed), detail[1]
        offset += stored


def _read_header(file: FileStamp, offset: int, end: int) -> tuple[dict[int, Any], int]:
    """-> the header of a page as {field: value}, and its length."""
    for most in _HEADER_BYTES:
        data = read_at(file, offset, min(most, end - offset))
        try:
            return _read_struct(data, 0)
        except IndexError:  # cut: it holds statistics
            continue
    raise _UnsupportedError


@functools.lru_cache(_CACHED_PAGES)
def _read_page(file: FileStamp, page: Page, codec: str, max_level: int) -> tuple[memoryview, memoryview]:
    """-> the encoded definition levels of a page, and its decompressed values."""
    data = memoryview(read_at(file, page.offset, page.stored))
    if page.levels is not None:
        repetition, definition = page.levels
        levels = data[repetition : repetition + definition]
        values = data[repetition + definition :]
        return levels, _decompress(values, codec, page) if page.compressed else values
    data = _decompress(data, codec, page)
    if not max_level:
        return data[:0], data
    length = int.from_bytes(data[:4], "little")
    return data[4 : 4 + length], data[4 + length :]


def _decompress(data: memoryview, codec: str, page: Page) -> memoryview:
    if codec == "UNCOMPRESSED" or not data:
        return data
    import pyarrow as pa

    size = page.size - sum(page.levels or ())
    try:
        return memoryview(pa.decompress(data, size, codec.lower())).cast("B")
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"a page of the parquet file cannot be decompressed ({error})") from error


def _plain_value(values: memoryview, index: int) -> bytes:
    """-> value `index` of values in the plain encoding: a length of 4 bytes before each."""
    at = 0
    for _ in range(index):
        at += 4 + int.from_bytes(values[at : at + 4], "little")
    size = int.from_bytes(values[at : at + 4], "little")
    value = bytes(values[at + 4 : at + 4 + size])
    if len(value) < size or at + 4 > len(values):
        raise OSError("a page of the parquet file ends too early")
    return value


def _decode_runs(data: memoryview, width: int, count: int) -> np.ndarray:
    """-> (count,) integers of `width` bits in the hybrid of run lengths and bit packing."""
    if not width:
        return np.zeros(count, np.int64)
    parts, found, at = [], 0, 0
    while found < count:
        if at >= len(data):
            raise OSError("a page of the parquet file ends too early")
        header, at = _varint(data, at)
        if header & 1:
            size = (header >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[at : at + size], np.uint8), bitorder="little")
            digits = bits[: len(bits) // width * width].reshape(-1, width).astype(np.int64)
            part = digits @ (1 << np.arange(width, dtype=np.int64))
        else:
            size = (width + 7) // 8
            part = np.full(header >> 1, int.from_bytes(data[at : at + size], "little"), np.int64)
        at += size
        parts.append(part)
        found += len(part)
    return np.concatenate(parts)[:count]


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """-> an unsigned integer of 7 bits a byte, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _read_struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """-> a struct in Thrift's compact protocol as {field: value}, and the position after it."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        delta, kind = head >> 4, head & 15
        if delta:
            number += delta
        else:
            number, at = _zigzag(data, at)
        fields[number], at = (kind == 1, at) if kind in (1, 2) else _read_field(data, at, kind)
    return fields, at + 1


def _read_field(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    """-> a value of a type of Thrift's compact protocol, and the position after it."""
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 8:
        size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError
        return data[at : at + size], at + size
    if kind == 12:
        return _read_struct(data, at)
    raise _UnsupportedError  # doubles, lists and maps: in no header of a page
