"""Bytes of ArrayRecord files, read in place, without ArrayRecord's reader and its checksums.

ArrayRecord writes chunks in Riegeli's format: with `group_size:1,uncompressed`, a chunk is a header and one
record. A block header interrupts the chunks at every 64 KiB of the file; positions here are offsets without
the block headers. Source: https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
"""

import struct
from typing import NamedTuple

from fastmim_jax.data.sources.pread import FileStamp, read_buffers

_BLOCK, _BLOCK_HEADER = 2**16, 24
_DATA = _BLOCK - _BLOCK_HEADER  # bytes of chunks in a block
_HEADER = struct.Struct("<8xQ8xQQ")  # hash, bytes of data, their hash, kind and records, bytes of records
_ONE_RECORD = ord("r") | 1 << 8  # kind and number of records of a chunk
MAX_PREFIX = _HEADER.size + 11  # before the record: header, compression and the size as two varints

_skipped = bytearray(_BLOCK_HEADER)  # block headers are read into it, by all threads


class Chunk(NamedTuple):
    """A chunk of one record. record: position of its record; size: of the record, bytes; end: position."""

    record: int
    size: int
    end: int


def read_at(file: FileStamp, position: int, size: int) -> bytearray:
    """Return `size` bytes from a position on; raises OSError: the file ends before."""
    data = bytearray(size)
    read_into(file, position, memoryview(data))
    return data


def read_into(file: FileStamp, position: int, out: memoryview) -> None:
    """Fill `out`, of bytes, from a position on; raises OSError: the file ends before."""
    block, inside = divmod(position, _DATA)
    room = _DATA - inside  # to the next block header
    buffers = [out[:room]]
    for first in range(room, len(out), _DATA):
        buffers += [memoryview(_skipped), out[first : first + _DATA]]
    read_buffers(file, block * _BLOCK + _BLOCK_HEADER + inside, buffers)


def parse_chunk(data: bytes | bytearray, position: int) -> Chunk:
    """Return the chunk at a position.

    Args:
      data: its first bytes, at least MAX_PREFIX.
      position: of the chunk.

    Raises:
      ValueError: not a chunk with one uncompressed record.
    """
    size, kind, record_size = _HEADER.unpack_from(data)
    prefix = _HEADER.size + size - record_size
    if kind != _ONE_RECORD or data[_HEADER.size] or not _HEADER.size < prefix <= MAX_PREFIX:
        raise ValueError(f"no chunk with one uncompressed record at position {position:,}")
    return Chunk(position + prefix, record_size, position + _HEADER.size + size)


def find_chunks(file: FileStamp, records: int) -> list[int]:
    """Return the position of the chunk of every record.

    Raises:
      OSError: fewer records, or chunks of several or of compressed ones.
    """
    chunks, position = [], _HEADER.size  # the first chunk is empty and marks the kind of file
    for _ in range(records):
        chunks.append(position)
        try:
            position = parse_chunk(read_at(file, position, MAX_PREFIX), position).end
        except ValueError as error:
            raise OSError(f"{file.path} holds {error}, expected {records:,} of them") from error
    return chunks
