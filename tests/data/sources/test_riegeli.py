"""Bytes of ArrayRecord files in place, against ArrayRecord's own reader."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from fastmim_jax.data.sources.pread import stamp
from fastmim_jax.data.sources.riegeli import MAX_PREFIX, find_chunks, parse_chunk, read_at, read_into


def write(path, records, options="group_size:1,uncompressed"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return stamp(path)


@pytest.mark.parametrize("seed", range(3))
def test_records_and_their_parts_are_those_of_the_reader(tmp_path, seed):
    """Sizes around those of blocks: headers of blocks fall into headers, records and between chunks."""
    rng = np.random.default_rng(seed)
    sizes = [*rng.integers(1, 400, 150), *(65_536 + rng.integers(-90, 90, 60)), 1, 300_000]
    records = [rng.bytes(int(size)) for size in rng.permutation(sizes)]
    file = write(tmp_path / "file", records)
    reader = ArrayRecordReader(file.path)
    assert reader.read_all() == records
    chunks = find_chunks(file, len(records))
    for position, record in zip(chunks, records, strict=True):
        chunk = parse_chunk(read_at(file, position, MAX_PREFIX), position)
        assert chunk.size == len(record) and read_at(file, chunk.record, chunk.size) == record
        first, last = sorted(rng.integers(0, len(record) + 1, 2))
        part = np.empty(last - first, np.uint8)
        read_into(file, chunk.record + int(first), part.data)
        assert part.tobytes() == record[first:last]


def test_what_has_no_single_records_is_refused(tmp_path):
    records = [bytes([number]) * 1000 for number in range(20)]
    for options in ("group_size:10,uncompressed", "group_size:1,zstd"):
        with pytest.raises(
            OSError, match=r"holds no chunk with one uncompressed record at .*, expected 20"
        ):
            find_chunks(write(tmp_path / options, records, options), 20)
    file = write(tmp_path / "file", records)
    with pytest.raises(OSError, match="expected 21 of them"):
        find_chunks(file, 21)
    for position in (0, 41, 1000):
        with pytest.raises(ValueError, match="no chunk"):
            parse_chunk(read_at(file, position, MAX_PREFIX), position)
    with pytest.raises(OSError, match="ends at byte"):
        read_at(file, file.size, 1)
