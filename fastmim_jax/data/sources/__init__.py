"""Data sets: images in folders, lists, archives and tables, prepared records, or the bundled photos.

Each kind is a module with three functions of a path: `matches(path) -> bool`, `split_names(path)` and
`open_split(path, split) -> Source`. A new kind is a new module, and its name in `_KINDS`.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from fastmim_jax.data.image_formats import describe_extensions
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420
from fastmim_jax.data.sources import (
    arrow,
    folder,
    image_file,
    joined,
    list_file,
    parquet,
    records,
    sample,
    tfds,
    webdataset,
    zip_file,
)
from fastmim_jax.data.sources.base import refuse_split
from fastmim_jax.data.sources.folder import FolderSource
from fastmim_jax.data.sources.image_file import FileSource
from fastmim_jax.data.sources.records import RecordsSource
from fastmim_jax.data.sources.remote import local_data
from fastmim_jax.data.sources.sample import SampleSource
from fastmim_jax.data.sources.splits import EVALUATION_SPLITS
from fastmim_jax.data.sources.tfds import TFDSSource
from fastmim_jax.errors import UserError
from fastmim_jax.paths import describe_kind, is_store
from fastmim_jax.stores.store import Store

__all__ = [
    "FileSource",
    "FolderSource",
    "RecordsSource",
    "SampleSource",
    "Source",
    "TFDSSource",
    "check_exists",
    "evaluation_split",
    "labelled",
    "open_source",
    "split_names",
]

# The first that matches a path opens it; data sets of Hugging Face have a dataset_info.json as TFDS's have.
_KINDS = (sample, records, arrow, tfds, parquet, webdataset, zip_file, list_file, image_file, folder)
_LOG = logging.getLogger("fastmim_jax.data")


@runtime_checkable
class Source(Protocol):
    """Random-access records; it can be pickled for worker processes.

    classes: names of the classes; () where records have no labels.
    notices: sentences on what is left out, such as files that are no images.
    rows: optional, see `RecordsSource.rows`.
    names_in_memory: optional; False where `name` or `label` reads the record.
    all_labels: optional; () -> (n,) labels, without reading a record.
    """

    classes: Sequence[str]
    notices: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes | np.ndarray | Yuv420 | RawImage:
        """Return record `index`: the bytes of an image file, or an (H, W, C) array; see `decode`."""

    def name(self, index: int) -> str:
        """Return a name of the record for messages, such as its path."""

    def label(self, index: int) -> int:
        """Return the class number of the record, -1 where it has none."""

    def label_problem(self) -> str | None:
        """Return one sentence on why the source cannot be used where labels are needed, or None."""


def open_source(path: str | os.PathLike, split: str = "train") -> Source:
    """Open a data set.

    Args:
      path: 'sample'; 'tfds:NAME' or 'tfds:NAME:DATA_DIR'; a file: an image, a list of images (.txt), a
        .zip, .tar or .parquet file, or a pattern such as 'shard-{000..012}.tar'; or a directory: written
        by `fastmim prepare`, by `save_to_disk` of Hugging Face's `datasets`, a TFDS data set (at its
        version or one level above), .tar or .parquet files, or an image folder. An image folder or .zip
        file whose folders with images are named like splits (train, Training, val, dev, test ...) is
        entered at `split`.
        'FIRST::SECOND' joins data sets, with their classes merged by name. An address such as
        gs://bucket/photos is fetched into the cache of this machine, and later only what changed.
      split: a split of the data set.

    What is left out of the records, such as files that are no images, is a warning of the logger
    "fastmim_jax.data"; the commands print it.

    Raises:
      UserError: no data set there, or none with this split.

    >>> source = open_source("sample")
    >>> source, source[0].shape, source.classes[source.label(0)]
    (SampleSource('train', 4,096 images, 12 classes), (160, 160, 3), 'astronaut')
    """
    paths = _local_paths(path)
    if len(paths) == 1:
        source = _find_kind(paths[0]).open_split(paths[0], split)
    else:
        source = joined.JoinedSource(
            [_find_kind(one).open_split(one, split) for one in _holding(paths, split)]
        )
    for notice in source.notices:
        _LOG.warning(notice)
    return source


def check_exists(path: str | os.PathLike) -> None:
    """Raise UserError if there is no data set at a path, see `open_source`; nothing is read.

    Of an address only that a package opens it is checked.
    """
    for one in joined.split_path(path):
        if is_store(one):
            Store(one)
        else:
            _find_kind(one)


def split_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the splits of a data set, see `open_source`; () if it is not divided.

    Raises:
      UserError: no data set there, or a TFDS data set that cannot be opened.
    """
    names = [_find_kind(one).split_names(one) for one in _local_paths(path)]
    return tuple(dict.fromkeys(itertools.chain(*names)))


def evaluation_split(path: str | os.PathLike) -> str | None:
    """Return the split to evaluate on, the validation split before the test split, or None.

    Raises:
      UserError: see `split_names`.
    """
    offered = split_names(path)
    return next((name for name in EVALUATION_SPLITS if name in offered), None)


def labelled(source: Source) -> Source:
    """Return the source itself, if its records have labels and there are at least two classes.

    No image is decoded. Of a TFDS data set only the first label is read: a test split without public
    labels has -1 in all of its records.

    Raises:
      UserError: no labels, or a single class.
    """
    problem = source.label_problem()
    if problem is not None:
        raise UserError(problem)
    return source


def _local_paths(path: str | os.PathLike) -> list[str]:
    """-> the paths that are joined by "::", of local copies where they are addresses."""
    return [local_data(one) for one in joined.split_path(path)]


def _holding(paths: Sequence[str], split: str) -> list[str]:
    """-> the data sets that hold a split; for "train" also those that are not divided into splits."""
    offered = {path: _find_kind(path).split_names(path) for path in paths}
    holding = [path for path in paths if split in offered[path] or (split == "train" and not offered[path])]
    if not holding:
        names = tuple(dict.fromkeys(itertools.chain(*offered.values())))
        refuse_split(split, joined.SEPARATOR.join(paths), names, "it in one of these data sets")
    return holding


def _find_kind(path: str) -> ModuleType:
    """-> the module of `_KINDS` that opens a path."""
    for kind in _KINDS:
        if kind.matches(path):
            return kind
    found = describe_kind(path)
    if found:
        seen = f"{path} is {found}"
    else:
        parent = os.path.dirname(os.path.abspath(path))
        missing = "" if os.path.isdir(parent) else f" (nor its parent {parent})"
        seen = f"The folder {path} does not exist{missing}"
    raise UserError(
        f"{seen}; expected a folder of images, an image ({describe_extensions()}), a list of "
        "images (.txt), .zip, .tar (webdataset) or .parquet files, a data set that Hugging Face saved to "
        "disk, that TFDS or `fastmim prepare` wrote (or `tfds:NAME`), several of these as `FIRST::SECOND`, "
        "or `sample`, the bundled photos."
    )
