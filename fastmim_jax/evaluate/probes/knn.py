"""The k-nearest-neighbour probe: what the most similar training images are.

Masked image modelling scores low here: see `ridge` for what its features are worth.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.result import Result, check

PAIRS = 2**27  # similarities that are held at a time, half a gigabyte


def probe(train, test, classes, k=20):
    """Majority vote of the `k` training images with the largest cosine similarity.

    Features are taken as they are, neither centred nor scaled; votes are equal, and of classes with as
    many votes the first wins, all as in scikit-learn's `KNeighborsClassifier(k, metric="cosine")`. Of
    equally similar images the first are taken. Similarities are float32.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of them.

    Returns:
      Result; nothing is chosen, so `tried` is empty.

    Raises:
      UserError: as `result.check`; k that is not from 1 to the number of training images.
    """
    (x, labels), (queries, wanted) = check(train, test, classes)
    if not 1 <= k <= len(x):
        raise UserError(f"{k} neighbours were asked for among {len(x)} training images: give 1 to {len(x)}")
    right = predict(x, labels, queries, classes, k) == wanted
    return Result(float(right.mean()), f"{k} neighbours", k, {})


def predict(x, labels, queries, classes, k):
    """(N, D), (N,), (M, D) -> (M,) classes, as of `probe`."""
    x = _unit(jnp.asarray(x, jnp.float32))
    size = max(1, min(1024, PAIRS // len(x)))
    found = []
    for start in range(0, len(queries), size):
        nearest = np.asarray(_nearest(x, jnp.asarray(queries[start : start + size], jnp.float32), k))
        votes = np.zeros((len(nearest), classes), int)
        np.add.at(votes, (np.arange(len(nearest))[:, None], labels[nearest]), 1)
        found.append(votes.argmax(1))
    return np.concatenate(found)


@partial(jax.jit, static_argnames="k")
def _nearest(x, queries, k):
    """(N, D) of length 1, (M, D) -> (M, k) rows of x."""
    # Some devices multiply in less than float32 unless told.
    similarity = jnp.matmul(_unit(queries), x.T, precision="highest")
    return jax.lax.top_k(similarity, k)[1]


def _unit(x):
    """Rows of length 1; a row of zeros stays, similar to none."""
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
