"""Images with the depth of every pixel: the folders images/ and depths/."""

import dataclasses
import logging
import os

import numpy as np

from fastmim_jax.data.decode import read_values
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.masks.base import IGNORE, MaskedFiles
from fastmim_jax.data.masks.folder import DEPTHS, choose_split, find_splits
from fastmim_jax.data.masks.pairs import pair_folders
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.data.sources.pread import read_file
from fastmim_jax.data.sources.remote import local_data
from fastmim_jax.data.sources.splits import EVALUATION_SPLITS
from fastmim_jax.errors import UserError
from fastmim_jax.paths import place

STEP = 1e-4  # metres: depths are masks of integers, so that cropping and resizing are those of masks
MILLIMETRE = 1e-3
_LOG = logging.getLogger("fastmim_jax.data")


@dataclasses.dataclass(frozen=True)
class DepthCoding:
    """From the values of a depth image to steps of STEP; unit: metres of a value of an integer image.

    Values that are 0, negative or not finite are unknown.
    """

    unit: float

    def __call__(self, values: np.ndarray, path: str) -> np.ndarray:
        """Return (H, W) int32 steps, IGNORE where the depth is unknown; raises MaskError."""
        if values.ndim != 2:
            raise MaskError("unreadable", path, f"{values.shape[2]} channels, expected one")
        steps = values * (1 / STEP if values.dtype.kind == "f" else self.unit / STEP)
        known = np.isfinite(steps) & (steps > 0)
        if known.any() and steps[known].max() >= 2**31:
            raise MaskError(
                "unreadable", path, f"{steps[known].max() * STEP:.3g} m, expected less than 200 km"
            )
        return np.where(known, np.rint(np.where(known, steps, 0)), IGNORE).astype(np.int32)


class DepthFiles(MaskedFiles):
    """Images and depths in files of their own, a `MaskedImages` whose masks are steps of STEP."""

    def read_values(self, path: str) -> np.ndarray:
        """Return the values of a depth image: 16-bit PNG, TIFF, or .npy; floats are metres."""
        return read_depth_values(path, self.rules)


def read_depth_values(path: str, rules: DecodeRules) -> np.ndarray:
    """Return (H, W) values of a depth image as they are stored; raises MaskError."""
    try:
        found = read_values(read_file(path), 1, rules)
    except (DecodeError, OSError) as error:
        raise MaskError("unreadable", path, getattr(error, "reason", str(error))) from error
    if found is None:
        raise MaskError("unreadable", path, "8 bits or colours, expected 16 bits or floats")
    values = found[0]
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def open_depths(path: str | os.PathLike, *, split: str = "train", unit: float = MILLIMETRE) -> DepthFiles:
    """Open images with depths: images/ and depths/, divided as images/ and masks/ are.

    Args:
      unit: metres of a value of an integer image; 0 is an unknown depth. Floats are metres.

    Raises:
      UserError: no such folders or split.
    """
    root = os.path.abspath(local_data(place(os.fspath(path))))
    if not find_splits(root, DEPTHS):
        raise UserError(
            f"{root} has no depths; expected the folders images/ and depths/ in it (each with train/ "
            "and val/ inside, if divided), with a 16-bit PNG, TIFF or .npy file for each image"
        )
    if not 0 < unit < 1000:
        raise UserError(f"a depth unit of {unit} m is given: type --depth_unit=0.001 for millimetres")
    pairs = pair_folders(*choose_split(root, DEPTHS, split), noun="depth image")
    for notice in pairs.notices:
        _LOG.warning(notice)
    return DepthFiles(root, (), pairs.images, pairs.masks, DepthCoding(unit), pairs.notices)


def depth_evaluation_split(path: str | os.PathLike) -> str | None:
    """Return the split to evaluate on, the validation split before the test split, or None."""
    offered = find_splits(os.path.abspath(local_data(place(os.fspath(path)))), DEPTHS)
    return next((name for name in EVALUATION_SPLITS if name in offered), None)
