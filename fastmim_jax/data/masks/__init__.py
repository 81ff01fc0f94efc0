"""Images with masks for dense prediction: folders, ADE20K, Pascal VOC, Cityscapes and COCO.

Each layout is a module with three functions: `matches(path) -> bool`, `split_names(path)` and
`open_split(path, request) -> MaskedFiles`. A new layout is a new module, and its name in `KINDS`.
"""

import logging
import os
from collections.abc import Sequence
from types import ModuleType

from fastmim_jax.data.masks import ade20k, cityscapes, coco, folder, voc
from fastmim_jax.data.masks.base import (
    IGNORE,
    MaskedFiles,
    MaskedImage,
    MaskedImages,
    Request,
    number_names,
)
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.sources.remote import local_data
from fastmim_jax.data.sources.splits import EVALUATION_SPLITS
from fastmim_jax.errors import UserError, did_you_mean
from fastmim_jax.paths import describe_kind, place

__all__ = [
    "IGNORE",
    "KINDS",
    "MaskError",
    "MaskedImage",
    "MaskedImages",
    "mask_evaluation_split",
    "mask_split_names",
    "open_masks",
]

# The first that matches a path opens it.
KINDS = {"ade20k": ade20k, "voc": voc, "cityscapes": cityscapes, "coco": coco, "folder": folder}
EXPECTED = (
    "the folders images/ and masks/ (each with train/ and val/ inside, if divided), or the folder of "
    "ADEChallengeData2016, Pascal VOC (VOCdevkit/VOC2012), Cityscapes (leftImg8bit and gtFine) or COCO"
)
_LOG = logging.getLogger("fastmim_jax.data")


def open_masks(
    path: str | os.PathLike,
    *,
    split: str = "train",
    kind: str = "auto",
    legend: str = "",
    classes: Sequence[str] | int | None = None,
) -> MaskedFiles:
    """Open images with masks.

    Args:
      path: the folder of a data set, or an address such as gs://bucket/photos, which is copied here.
      split: of the data set; a folder that is not divided has "train" alone.
      kind: of KINDS, or "auto".
      legend: a file with the names of the classes and their colours or values, see `legend`; "": the file
        legend.txt, legend.json, classes.txt or classes.json in the folder, or else none. Only for "folder".
      classes: names or number of the classes, instead of those that the data set tells.

    What is left out, such as images without a mask, is a warning of the logger "fastmim_jax.data".

    Raises:
      UserError: no such data set or split, or masks that cannot be used.
    """
    root = _local(path)
    names = (
        number_names(classes) if isinstance(classes, int) else None if classes is None else tuple(classes)
    )
    layout = _find_kind(root, kind)
    if legend and layout is not folder:
        raise UserError(f"a legend is given ({legend}), but {root} has its own classes: leave it out")
    opened = layout.open_split(root, Request(split, legend, names))
    for notice in opened.notices:
        _LOG.warning(notice)
    return opened


def mask_split_names(path: str | os.PathLike, kind: str = "auto") -> tuple[str, ...]:
    """Return the names of the splits of a data set; () if it is not divided.

    Raises:
      UserError: no data set there.
    """
    root = _local(path)
    return _find_kind(root, kind).split_names(root)


def mask_evaluation_split(path: str | os.PathLike, kind: str = "auto") -> str | None:
    """Return the split to evaluate on, the validation split before the test split, or None."""
    offered = mask_split_names(path, kind)
    return next((name for name in EVALUATION_SPLITS if name in offered), None)


def _local(path: str | os.PathLike) -> str:
    text = os.fspath(path)
    return text if text.startswith("tfds:") else os.path.abspath(local_data(place(text)))


def _find_kind(path: str, kind: str) -> ModuleType:
    if kind != "auto":
        if kind not in KINDS:
            raise UserError(
                f"no layout of masks '{kind}'; choose from: auto, {', '.join(KINDS)}"
                f"{did_you_mean(kind, KINDS)}"
            )
        return KINDS[kind]
    for layout in KINDS.values():
        if layout.matches(path):
            return layout
    seen = f"{path} is {describe_kind(path) or 'nothing that exists'}"
    raise UserError(f"{seen}, without masks in a known layout; expected {EXPECTED}")
