"""Data sets that Hugging Face's `datasets` saved to disk: memory-mapped Arrow files, read with pyarrow."""

import functools
import json
import os
from bisect import bisect_right
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.sources.base import LabelledSource, refuse_file, refuse_split
from fastmim_jax.data.sources.columns import (
    Columns,
    choose_columns,
    image_bytes,
    import_pyarrow,
    number_labels,
)
from fastmim_jax.data.sources.pread import FileStamp, stamp
from fastmim_jax.errors import UserError


def matches(path: str) -> bool:
    """Return whether `path` is a directory written by `save_to_disk` of a Dataset or a DatasetDict."""
    files = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
    return any(all(os.path.isfile(os.path.join(path, name)) for name in names) for names in files)


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits of a DatasetDict; () for a Dataset.

    Raises:
      UserError: dataset_dict.json cannot be read.
    """
    if not os.path.isfile(os.path.join(path, "dataset_dict.json")):
        return ()
    return tuple(_read_json(path, "dataset_dict.json", "splits"))


def open_split(path: str, split: str) -> "ArrowSource":
    """Open a split; raises as `split_names` and `ArrowSource`, and for a split that does not exist."""
    offered = split_names(path)
    if split in offered:
        return ArrowSource(os.path.join(path, split))
    if not offered and split == "train":
        return ArrowSource(path)
    refuse_split(split, f"the data set {path}", offered, "one of its splits")


class ArrowSource(LabelledSource):
    """The images of a Dataset on disk; each process maps the files into its memory."""

    names_in_memory = False
    expected_labels = "expected a column label with integers or text, and no empty cells"

    def __init__(self, path: str):
        """Raises UserError: pyarrow is missing, files are missing or damaged, no image column."""
        import_pyarrow(path)
        names = [entry["filename"] for entry in _read_json(path, "state.json", "_data_files")]
        missing = [name for name in names if not os.path.isfile(os.path.join(path, name))]
        if missing or not names:
            lacks = ", ".join(missing[:3]) if missing else "any .arrow file"
            raise UserError(
                f"{path} lacks {lacks}; expected all files that `save_to_disk` wrote: copy it again."
            )
        self._files = tuple(stamp(os.path.join(path, name)) for name in names)
        self.columns = choose_columns(_read_schema(self._files[0], path), path)
        table = _open(self._files, self.columns)
        if not table.starts[-1]:
            raise UserError(f"{path} is empty; expected images.")
        if self.columns.label:
            values = [value for chunk in table.labels for value in chunk.to_pylist()]
            classes, labels = number_labels(self.columns, values)
        else:
            classes, labels = (), np.full(table.starts[-1], -1, np.int32)
        super().__init__(path, classes, labels)

    def _cell(self, index: int, chunks: str) -> Any:
        table = _open(self._files, self.columns)
        index = self.position(index)
        chunk = bisect_right(table.starts, index) - 1
        return getattr(table, chunks)[chunk][index - table.starts[chunk]]

    def __getitem__(self, index: int) -> bytes:
        return image_bytes(self._cell(index, "images").as_py(), self.columns.nested)

    def name(self, index: int) -> str:
        position = super().name(index)
        if self.columns.name:
            return f"{self._cell(index, 'names').as_py()} [{position}]"
        file = self._cell(index, "images").get("path").as_py() if self.columns.path else None
        return f"{file} [{position}]" if file else position

    def label_problem(self) -> str | None:
        return self.columns.label_problem or super().label_problem()


class _Table(NamedTuple):
    """The columns of some files in chunks; starts: of the chunks, and the number of records."""

    starts: list[int]
    images: list[Any]
    labels: list[Any]
    names: list[Any]


@functools.lru_cache(8)
def _open(files: tuple[FileStamp, ...], columns: Columns) -> _Table:
    import pyarrow as pa

    chunks: dict[str | None, list[Any]] = {columns.image: [], columns.label: [], columns.name: []}
    for file in files:
        try:
            table = pa.ipc.open_stream(pa.memory_map(file.path)).read_all()
        except pa.ArrowException as error:
            refuse_file(file, "Arrow stream", error)
        for batch in table.to_batches():
            for name, found in chunks.items():
                if name is not None:
                    found.append(batch.column(name))
    images = chunks[columns.image]
    starts = [0, *accumulate(map(len, images))]
    return _Table(starts, images, chunks[columns.label], chunks[columns.name])


def _read_schema(file: FileStamp, path: str) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(pa.memory_map(file.path)).schema
    except pa.ArrowException as error:
        refuse_file(file, "Arrow stream", error)


def _read_json(path: str, name: str, key: str) -> Any:
    try:
        with open(os.path.join(path, name), encoding="utf-8") as file:
            return json.load(file)[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{os.path.join(path, name)} cannot be read ({error}); expected the file that "
            "`save_to_disk` wrote: copy it again."
        ) from error
