"""Data sets: an image folder or file, a prepared or TFDS data set, or the bundled sample photos.

Each kind is a module with three functions of a path: `matches(path) -> bool`, `split_names(path)` and
`open_split(path, split) -> Source`. A new kind is a new module, and its name in `_KINDS`.
"""

import logging
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from fastmim_jax.data.image_formats import describe_extensions
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420
from fastmim_jax.data.sources import folder, image_file, records, sample, tfds
from fastmim_jax.data.sources.base import SPLITS
from fastmim_jax.data.sources.folder import FolderSource
from fastmim_jax.data.sources.image_file import FileSource
from fastmim_jax.data.sources.records import RecordsSource
from fastmim_jax.data.sources.sample import SampleSource
from fastmim_jax.data.sources.tfds import TFDSSource
from fastmim_jax.errors import UserError

__all__ = [
    "FileSource",
    "FolderSource",
    "RecordsSource",
    "SampleSource",
    "Source",
    "TFDSSource",
    "evaluation_split",
    "labelled",
    "open_source",
    "split_names",
]

_KINDS = (sample, records, tfds, image_file, folder)  # the first that matches a path opens it
_LOG = logging.getLogger("fastmim_jax.data")
_EVALUATION_SPLITS = SPLITS[1:]  # in order of preference


@runtime_checkable
class Source(Protocol):
    """Random-access records; it can be pickled for worker processes.

    classes: names of the classes; () where records have no labels.
    notices: sentences on what is left out, such as files that are no images.
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
      path: 'sample'; 'tfds:NAME' or 'tfds:NAME:DATA_DIR'; an image file; or a directory: written by
        `fastmim prepare`, a TFDS data set (at its version or one level above), or an image folder. An image
        folder with nothing but folders named like splits (train, val, test ...) is entered at `split`.
      split: a split of the data set.

    What is left out of the records, such as files that are no images, is a warning of the logger
    "fastmim_jax.data"; the commands print it.

    Raises:
      UserError: no data set there, or none with this split.

    >>> source = open_source("sample")
    >>> source, source[0].shape, source.classes[source.label(0)]
    (SampleSource('train', 4,096 images, 12 classes), (160, 160, 3), 'astronaut')
    """
    path, kind = _resolve(path)
    source = kind.open_split(path, split)
    for notice in source.notices:
        _LOG.warning(notice)
    return source


def split_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the splits of a data set, see `open_source`; () if it is not divided.

    Raises:
      UserError: no data set there, or a TFDS data set that cannot be opened.
    """
    path, kind = _resolve(path)
    return kind.split_names(path)


def evaluation_split(path: str | os.PathLike) -> str | None:
    """Return the split to evaluate on, the validation split before the test split, or None.

    Raises:
      UserError: see `split_names`.
    """
    offered = split_names(path)
    return next((name for name in _EVALUATION_SPLITS if name in offered), None)


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


def _resolve(path: str | os.PathLike) -> tuple[str, ModuleType]:
    """-> the path with '~' expanded, and the module of `_KINDS` that opens it."""
    path = os.path.expanduser(os.fspath(path))
    for kind in _KINDS:
        if kind.matches(path):
            return path, kind
    if os.path.exists(path):
        seen = f"{path} is a file"
    else:
        parent = os.path.dirname(os.path.abspath(path))
        missing = "" if os.path.isdir(parent) else f" (nor its parent {parent})"
        seen = f"The folder {path} does not exist{missing}"
    raise UserError(
        f"{seen}; expected a folder of images, an image file ({describe_extensions()}), a TFDS data set "
        "(`tfds:NAME` or its directory), or `sample`, the bundled photos."
    )
