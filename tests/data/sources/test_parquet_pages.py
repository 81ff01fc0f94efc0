"""Single values of parquet columns: those that pyarrow reads, for every form of page that it writes."""

import os

import numpy as np
import pytest

from fastmim_jax.data.sources import parquet_pages
from fastmim_jax.data.sources.parquet_pages import find_pages, read_value
from fastmim_jax.data.sources.pread import stamp
from helpers.sweeps import thin

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: `pip install pyarrow`")
pq = pytest.importorskip("pyarrow.parquet")


def some_values(nulls, count=300):
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(rng.integers(0, 400))) for _ in range(count)]
    values[::3] = [values[0]] * len(values[::3])  # repeated: a dictionary pays
    return [None if nulls and rng.random() < 0.2 else value for value in values]


def opened(path, column, group=0):
    file, metadata = stamp(path), pq.read_metadata(path)
    pages = find_pages(file, metadata, group, column)
    return pages if pages is None else [read_value(file, pages, row) for row in range(pages.starts[-1])]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", thin(["none", "snappy", "gzip", "zstd", "brotli"], 3))
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("nulls", [False, True])
def test_values_are_those_of_pyarrow(tmp_path, version, codec, dictionary, nulls):
    values, path = some_values(nulls), tmp_path / "a.parquet"
    structs = [None if i % 7 == 3 else {"bytes": value, "path": str(i)} for i, value in enumerate(values)]
    table = pa.table({"flat": pa.array(values, pa.binary()), "image": structs, "text": ["x"] * len(values)})
    options = dict(compression=codec, use_dictionary=dictionary, data_page_version=version)
    pq.write_table(table, path, row_group_size=130, data_page_size=4096, write_batch_size=16, **options)
    for group, start in enumerate((0, 130, 260)):
        rows = slice(start, start + 130)
        assert opened(path, "flat", group) == values[rows]
        expected = [None if cell is None else cell["bytes"] for cell in structs[rows]]
        assert opened(path, "image.bytes", group) == expected
    pages = find_pages(stamp(path), pq.read_metadata(path), 0, "flat")
    assert (pages.dictionary is not None) == dictionary and (dictionary or len(pages.pages) > 2)


def test_a_column_that_is_never_null(tmp_path):
    schema = pa.schema([pa.field("image", pa.large_binary(), nullable=False)])
    values = some_values(False)
    pq.write_table(pa.table({"image": values}, schema=schema), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", "image") == values


def test_a_dictionary_that_grows_too_large(tmp_path):
    values = [os.urandom(5_000) for _ in range(60)]  # pyarrow goes over to plain values
    limits = dict(dictionary_pagesize_limit=50_000, write_batch_size=4)
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet", **limits)
    pages = find_pages(stamp(tmp_path / "a.parquet"), pq.read_metadata(tmp_path / "a.parquet"), 0, "image")
    assert len({page.encoding for page in pages.pages}) == 2
    assert opened(tmp_path / "a.parquet", "image") == values


def test_other_forms_are_left_to_pyarrow(tmp_path):
    values = some_values(False)
    path = tmp_path / "a.parquet"
    encoding = dict(use_dictionary=False, column_encoding="DELTA_LENGTH_BYTE_ARRAY")
    pq.write_table(pa.table({"image": values}), path, **encoding)
    assert opened(path, "image") is None
    pq.write_table(pa.table({"image": values}), path, compression="lz4")
    assert opened(path, "image") is None
    pq.write_table(pa.table({"image": [[value] for value in values]}), path)
    assert opened(path, "image.list.element") is None and opened(path, "gone") is None
    pq.write_table(pa.table({"image": [bytes(parquet_pages._LARGEST_PAGE)] * 2}), path)
    assert opened(path, "image") is None  # a dictionary too large to be read for one value


def test_statistics_in_a_header(tmp_path):
    values = [bytes([65 + i]) * 3000 for i in range(20)]
    pq.write_table(
        pa.table({"image": values}), tmp_path / "a.parquet", use_dictionary=False, data_page_size=1
    )
    assert opened(tmp_path / "a.parquet", "image") == values
    assert parquet_pages._HEADER_BYTES[0] < 2 * 3000


def test_a_damaged_page(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": some_values(False)}), path, use_dictionary=False, compression="zstd")
    metadata = pq.read_metadata(path)
    pages = find_pages(stamp(path), metadata, 0, "image")
    data = bytearray(path.read_bytes())
    data[pages.pages[0].offset : pages.pages[0].offset + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(OSError, match="cannot be decompressed"):
        read_value(stamp(path), pages, 0)
