"""Parquet files with a column of images, read by page, or with pyarrow by row group."""

import functools
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from fastmim_jax.data.sources import shards
from fastmim_jax.data.sources.base import LabelledSource, refuse_file
from fastmim_jax.data.sources.columns import choose_columns, image_bytes, import_pyarrow, number_labels
from fastmim_jax.data.sources.parquet_pages import ColumnPages, find_pages, read_value
from fastmim_jax.data.sources.pread import FileStamp, stamp
from fastmim_jax.errors import UserError

_CACHED_GROUPS = 2  # per process: for reading in order, by several threads
_LARGE_GROUP = 4 * 2**20  # bytes


def matches(path: str) -> bool:
    """Return whether `path` is a .parquet file, a pattern of them or a folder of them."""
    return shards.has_shards(path, "parquet")


def split_names(path: str) -> tuple[str, ...]:
    """Return the splits that the names of the files tell; () if none. Raises as `shards.find_shards`."""
    return shards.split_names(path, "parquet")


def open_split(path: str, split: str) -> "ParquetSource":
    """Open the files of a split; raises as `shards.choose_shards` and `ParquetSource`."""
    return ParquetSource(path, shards.choose_shards(path, "parquet", split))


class ParquetSource(LabelledSource):
    """The images of some parquet files.

    Reading a record reads its page, about a megabyte; or the images of its row group, where the pages have
    a form that only pyarrow reads.
    """

    names_in_memory = False
    expected_labels = "expected a column label with integers or text, and no empty cells"

    def __init__(self, path: str, files: Sequence[str]):
        """Open files; path: of the data set, for messages.

        Raises:
          UserError: pyarrow is missing, a file is damaged or has other columns, no image column or record.
        """
        import_pyarrow(path)
        self._files = tuple(stamp(file) for file in files)
        self.columns = choose_columns(_metadata(self._files[0]).schema.to_arrow_schema(), path)
        self._groups: list[tuple[int, int]] = []  # (position of the file, row group in it)
        rows, largest = [], 0
        for number, file in enumerate(self._files):
            found = _metadata(file)
            if self.columns.image not in found.schema.to_arrow_schema().names:
                raise UserError(
                    f"{file.path} has no column {self.columns.image}, but {self._files[0].path} has; "
                    "expected files with the same columns."
                )
            for group in range(found.num_row_groups):
                self._groups.append((number, group))
                rows.append(found.row_group(group).num_rows)
                largest = max(largest, found.row_group(group).total_byte_size)
        self._starts = [0, *accumulate(rows)]
        if not self._starts[-1]:
            raise UserError(f"{path} is empty; expected images.")
        classes, labels = self._read_labels()
        self._leaf = f"{self.columns.image}.bytes" if self.columns.nested else self.columns.image
        by_page = _pages(self._files[0], 0, self._leaf) is not None
        notices = [] if by_page else _notices(path, max(rows), largest)
        super().__init__(path, classes, labels, [*notices, *shards.skipped_in(path, files)])

    def _read_labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        if not self.columns.label:
            return (), np.full(self._starts[-1], -1, np.int32)
        values: list[Any] = []
        for file in self._files:
            values += _read(file, None, self.columns.label).to_pylist()
        return number_labels(self.columns, values)

    def _locate(self, index: int) -> tuple[FileStamp, int, int]:
        """-> the file of a record, its row group, and its row in it."""
        index = self.position(index)
        which = bisect_right(self._starts, index) - 1
        number, group = self._groups[which]
        return self._files[number], group, index - self._starts[which]

    def __getitem__(self, index: int) -> bytes:
        file, group, row = self._locate(index)
        pages = _pages(file, group, self._leaf)
        data = None if pages is None else read_value(file, pages, row)
        if data is not None:
            return data
        with _lock:  # threads that read neighbours wait for one of them
            images = _row_group(file, group, self.columns.image)
        return image_bytes(images[row].as_py(), self.columns.nested)

    def name(self, index: int) -> str:
        file, group, row = self._locate(index)
        first = sum(_metadata(file).row_group(i).num_rows for i in range(group))
        position = f"{file.path}[{first + row}]"
        column = self.columns.name or self.columns.path
        value = _names(file, group, column)[row].as_py() if column else None
        value = value.get("path") if isinstance(value, dict) else value
        return position if value is None else f"{value} [{position}]"

    def label_problem(self) -> str | None:
        return self.columns.label_problem or super().label_problem()


def _notices(path: str, rows: int, size: int) -> list[str]:
    if rows == 1 or size < _LARGE_GROUP:
        return []
    return [
        f"{path}: reading one record out of order reads its row group, up to {rows:,} records and "
        f"{size / 2**20:,.0f} MiB; `fastmim prepare` writes records that are read one by one"
    ]


_lock = threading.Lock()


@functools.lru_cache(4096)
def _pages(file: FileStamp, group: int, path: str) -> ColumnPages | None:
    return find_pages(file, _metadata(file), group, path)


@functools.lru_cache(_CACHED_GROUPS)
def _row_group(file: FileStamp, group: int, column: str) -> Any:
    """-> the images of a row group, as pyarrow.ChunkedArray."""
    return _read(file, group, column)


@functools.lru_cache(8)
def _names(file: FileStamp, group: int, column: str) -> Any:
    return _read(file, group, column)


def _read(file: FileStamp, group: int | None, column: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path, metadata=_metadata(file)) as opened:
            options = dict(columns=[column], use_threads=False)
            table = opened.read(**options) if group is None else opened.read_row_group(group, **options)
        return table.column(0)
    except (pa.ArrowException, KeyError, OSError) as error:
        refuse_file(file, "parquet", error)


@functools.lru_cache(256)
def _metadata(file: FileStamp) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_metadata(file.path)
    except (pa.ArrowException, OSError) as error:
        refuse_file(file, "parquet", error)
