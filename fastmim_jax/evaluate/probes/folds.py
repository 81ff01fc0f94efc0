"""Stratified folds of images, and the fifth of the training images that is held out."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from fastmim_jax.errors import UserError

HELD_OUT_FOLDS = 5  # one of them is held out to choose a hyperparameter


def split_folds(labels: Sequence[int] | np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return (N,) fold numbers from 0, shuffled by the seed.

    The sizes of the folds differ by at most one, and so do the numbers of images of any class in them.
    Where every class has fewer images than there are folds, the folds are not stratified.

    Args:
      labels: (N,) integers.
      count: number of folds.

    Raises:
      UserError: fewer than 2 folds, or more folds than images.
    """
    if not 2 <= count <= len(labels):
        raise UserError(
            f"{len(labels)} images cannot be split into {count} folds: give a number of folds from 2 to "
            "the number of images"
        )
    stratified = np.unique(labels, return_counts=True)[1].max() >= count
    splitter = (StratifiedKFold if stratified else KFold)(count, shuffle=True, random_state=seed)
    numbers = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, rows) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
            numbers[rows] = number
    return numbers


def held_out(labels: Sequence[int] | np.ndarray, seed: int = 0) -> np.ndarray:
    """Return (N,) bool: the fifth of the images to hold out, one of five folds.

    Raises:
      UserError: fewer than 5 images.
    """
    if len(labels) < HELD_OUT_FOLDS:
        raise UserError(
            f"{len(labels)} training images are too few to hold out a fifth of them: give at least "
            f"{HELD_OUT_FOLDS}"
        )
    return split_folds(labels, HELD_OUT_FOLDS, seed) == 0
