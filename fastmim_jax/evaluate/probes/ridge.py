"""The ridge probe: least squares from standardised features to the classes, in closed form.

The quick number for masked image modeling: its features are linearly useful long before neighbors in
feature space share a class, and more so some layers before the last.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import Labelled, ProbeResult, check_features, choose_best

# Strongest first: of equals the strongest is chosen. The standardised features have a mean square of 1.
PENALTIES = tuple(float(f"1e{power}") for power in range(2, -7, -1))


def probe(
    train: Labelled,
    test: Labelled,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> ProbeResult:
    """Choose the penalty on a held-out fifth of the training images, then fit on all of them.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of classes.
      penalties: numbers above 0, per image: scikit-learn's alpha is penalty * N, so that a penalty means
        the same for any number of images. The first of equally good ones is chosen.
      seed: decides which images are held out.

    Returns:
      ProbeResult; `held_out` has the penalties.

    Raises:
      UserError: see `check_features` and `held_out`; a penalty is not above 0.
    """
    if not all(0 < penalty < np.inf for penalty in penalties):
        raise UserError(f"the penalties are {', '.join(map(str, penalties))}: give numbers above 0")
    (x, labels), (queries, expected) = check_features(train, test, classes)
    x, out = x.astype(np.float64), held_out(labels, seed)
    scaler = StandardScaler().fit(x[~out])  # shared by all penalties
    z, z_out = scaler.transform(x[~out]), scaler.transform(x[out])
    accuracies = {
        penalty: float(classifier(penalty, len(z)).fit(z, labels[~out]).score(z_out, labels[out]))
        for penalty in penalties
    }
    best = choose_best(accuracies)
    accuracy = fit(x, labels, best).score(queries.astype(np.float64), expected)
    return ProbeResult(float(accuracy), f"penalty {best:g}", best, accuracies)


def fit(x: np.ndarray, labels: np.ndarray, penalty: float) -> Pipeline:
    """Return the standardisation and the classifier fitted to (N, D) features and (N,) labels."""
    pipeline = make_pipeline(StandardScaler(), classifier(penalty, len(x)))
    return pipeline.fit(x.astype(np.float64), labels)


def classifier(penalty: float, images: int) -> RidgeClassifier:
    """Return a ridge classifier, not fitted yet, for standardised features of a number of images."""
    return RidgeClassifier(alpha=penalty * images, copy_X=False)  # the features are centred already
