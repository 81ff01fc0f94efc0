"""Images in folds, with the classes spread evenly."""

import numpy as np

from fastmim_jax.errors import UserError


def folds(labels, count, seed=0):
    """Deals the images out to `count` folds, class by class, in an order drawn from the seed.

    Args:
      labels: (N,) any sortable values.

    Returns:
      (N,) fold numbers from 0; the sizes of the folds differ by at most one, and so do the numbers of
      images of any class in them.

    Raises:
      UserError: fewer than 2 folds, or more folds than images.
    """
    if not 2 <= count <= len(labels):
        raise UserError(
            f"{len(labels)} images cannot be dealt out to {count} folds: give a number of folds from 2 to "
            "the number of images"
        )
    found = np.empty(len(labels), int)
    # Dealing goes on where the last class ended, so that the left-over images do not all go to fold 0.
    found[_by_class(labels, seed)] = np.arange(len(labels)) % count
    return found


def held_out(labels, share, seed=0):
    """Which images to hold out: `share` of them, rounded, and as many of every class to within one image.

    Args:
      labels: (N,) any sortable values.
      share: in (0, 1).

    Returns:
      (N,) bool. A class with few images may be held out as a whole or not at all.

    Raises:
      UserError: nothing would be held out, or nothing left.
    """
    count = round(len(labels) * share)
    if not 0 < count < len(labels):
        raise UserError(
            f"a share of {share:g} of {len(labels)} images is {count} to hold out, expected at least 1 and "
            "not all: give more images, or a share between 0 and 1"
        )
    # `count` places spread evenly over the classes in a row: any stretch holds its share of them.
    passed = np.arange(len(labels) + 1) * count // len(labels)
    mask = np.empty(len(labels), bool)
    mask[_by_class(labels, seed)] = np.diff(passed) > 0
    return mask


def _by_class(labels, seed):
    """The images in the order of their classes, shuffled within each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(np.asarray(labels)[order], kind="stable")]
