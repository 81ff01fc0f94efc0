"""The k-nearest-neighbor probe.

Features of masked image modeling score low here; the ridge probe shows what they are worth.
"""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.result import Labelled, ProbeResult, check_features


def probe(train: Labelled, test: Labelled, classes: int, k: int = 20) -> ProbeResult:
    """Classify by a majority vote of the `k` training images with the largest cosine similarity.

    Features are neither centred nor scaled; votes are equal. Similarities are float32.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of classes.
      k: number of neighbors.

    Returns:
      ProbeResult; nothing is chosen, so `held_out` is empty.

    Raises:
      UserError: see `check_features`; k is not between 1 and the number of training images.
    """
    (x, labels), (queries, expected) = check_features(train, test, classes)
    if not 1 <= k <= len(x):
        raise UserError(f"{k} neighbors were asked for among {len(x)} training images: give 1 to {len(x)}")
    model = KNeighborsClassifier(k, metric="cosine").fit(x.astype(np.float32), labels)
    accuracy = model.score(queries.astype(np.float32), expected)
    return ProbeResult(float(accuracy), f"{k} neighbors", k, {})
