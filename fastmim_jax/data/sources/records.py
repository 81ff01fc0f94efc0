"""Data sets that `fastmim prepare` has written: ArrayRecord shards of shrunk images, with an index."""

import bisect
import itertools
import logging
import os
from typing import Any

import numpy as np

from fastmim_jax.data.records.index import RecordIndex
from fastmim_jax.data.records.manifest import Manifest, SplitFacts, is_prepared, load_manifest
from fastmim_jax.data.records.raw import NATURAL_RANGES, RawImage
from fastmim_jax.data.records.record import unpack
from fastmim_jax.data.records.yuv import Yuv420
from fastmim_jax.data.sources.pread import FileStamp, stamp
from fastmim_jax.data.sources.record_rows import RecordRows, open_rows
from fastmim_jax.errors import UserError

_LOG = logging.getLogger("fastmim_jax.data")


def matches(path: str) -> bool:
    """Return whether `path` is a directory that `fastmim prepare` has written."""
    return os.path.isdir(path) and is_prepared(path)


def split_names(path: str) -> tuple[str, ...]:
    """Return the names of the splits.

    Raises:
      UserError: see `load_manifest`.
    """
    return tuple(load_manifest(path).splits)


def open_split(path: str, split: str) -> "RecordsSource":
    """Open a split; see `RecordsSource` for errors."""
    return RecordsSource(path, split)


class RecordsSource:
    """The records of one split.

    Attributes:
      classes: names of the classes.
      layout: "jpeg", "yuv420" or "raw".
      manifest: of the data set. facts: of the split.
      notices: a sentence, where crops have to read whole records.
    """

    def __init__(self, path: str | os.PathLike, split: str = "train"):
        """Raises UserError: unfinished, of another version, no such split, or files are missing."""
        self.path, self.split = os.path.abspath(path), split
        self.manifest: Manifest = load_manifest(self.path)
        if split not in self.manifest.splits:
            raise UserError(
                f"The prepared data set {self.path} has no split {split!r}; expected one of "
                f"{', '.join(self.manifest.splits)}."
            )
        self.facts: SplitFacts = self.manifest.splits[split]
        self.classes, self.layout = self.facts.classes, self.manifest.layout
        natural = self.manifest.value_range == NATURAL_RANGES[self.manifest.dtype]
        floating = self.manifest.dtype == "float32"  # values may lie outside of any range
        self._range = None if natural and not floating else self.manifest.value_range
        self._open()

    def _open(self) -> None:
        paths = [os.path.join(self.path, shard.file) for shard in self.facts.shards]
        missing = [
            shard.file
            for shard, path in zip(self.facts.shards, paths, strict=True)
            if not os.path.isfile(path)
        ]
        try:
            self._index = RecordIndex(os.path.join(self.path, self.split))
        except (OSError, ValueError):
            missing.append(f"{self.split}/*.npy")
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise UserError(
                f"The prepared data set {self.path} lacks {len(missing):,} of its files ({shown}): copy "
                "them again, or delete the folder and prepare it again."
            )
        self._records = _open_shards(self.path, self.facts)
        self._files: list[FileStamp] = list(map(stamp, paths))
        self._ends = list(itertools.accumulate(shard.records for shard in self.facts.shards))
        problem = self._no_rows()
        self._rows, self._logged = problem is None and self.layout != "jpeg", False
        self.notices = (problem,) if problem and self.layout != "jpeg" else ()

    def _no_rows(self) -> str | None:
        """Return why the rows of a record cannot be read by themselves, or None."""
        slower = "crops read whole records, which takes longer"
        if self._index.chunks is None:
            return (
                f"{self.path} was prepared without the positions of its records: {slower}. To add them, "
                f"rerun `fastmim prepare {self.manifest.settings.get('source', 'SRC')} {self.path}`."
            )
        for shard, file in zip(self.facts.shards, self._files, strict=True):
            if file.size != shard.bytes:
                return (
                    f"{file.path} has {file.size:,} bytes, expected {shard.bytes:,}: {slower}. Copy the "
                    "file again if records cannot be read."
                )
        return None

    def __len__(self) -> int:
        return self.facts.records

    def __getitem__(self, index: int) -> bytes | np.ndarray | Yuv420 | RawImage:
        """Return an image: the bytes of a JPEG file, `Yuv420`, or an (H, W, C) array.

        Arrays are read-only views. `RawImage` where the declared range is not the natural one of the dtype.
        The checksum of the record is verified.
        """
        image = unpack(self._records[range(len(self))[index]]).image
        if isinstance(image, np.ndarray) and self._range is not None:
            return RawImage(image, self._range)
        return image

    def rows(self, index: int) -> RecordRows | None:
        """Return an image whose rows can be read by themselves, without a checksum.

        None: it cannot, for example because the record is not where the index says; that is logged once.
        """
        if not self._rows or self._index.chunks is None:
            return None
        index = range(len(self))[index]
        file = self._files[bisect.bisect_right(self._ends, index)]
        try:
            return open_rows(
                file, int(self._index.chunks[index]), self.name(index), self.label(index), self._range
            )
        except OSError:  # reading the whole record gives the reason
            return None
        except ValueError as error:
            self._log_once(f"{file.path} holds {error}, expected {self.name(index)}")
            return None

    def _log_once(self, problem: str) -> None:
        if not self._logged:
            self._logged = True
            _LOG.warning(
                f"{problem}: such records are read whole, with their checksums. To find damaged ones, "
                f"type `fastmim prepare --check {self.path}`."
            )

    def name(self, index: int) -> str:
        return self._index.name(range(len(self))[index])

    def label(self, index: int) -> int:
        return int(self._index.labels[range(len(self))[index]])

    def all_labels(self) -> np.ndarray:
        """Return the labels of all records."""
        return self._index.labels

    def label_problem(self) -> str | None:
        expected = "prepare it from a folder with one folder per class"
        if not self.classes:
            return f"The prepared data set {self.path} has no labels: {expected}."
        if self.facts.unlabelled:
            return (
                f"The split {self.split!r} of the prepared data {self.path} has {self.facts.unlabelled:,}"
                f" of {len(self):,} records without a label: {expected}, and no image outside of them."
            )
        if len(self.classes) < 2:
            return f"The prepared data set {self.path} has a single class, {self.classes[0]}: {expected}."
        return None

    def __reduce__(self) -> tuple:  # each worker process opens the files itself
        return RecordsSource, (self.path, self.split)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"RecordsSource({self.path!r}, {self.split!r}, {len(self):,} {self.layout} images{classes})"


def _open_shards(path: str, facts: SplitFacts) -> Any:
    """Open the shards for random access, thread-safe; their lengths are known, so that none is read."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(
        [f"{os.path.join(path, shard.file)}[0:{shard.records}]" for shard in facts.shards]
    )
