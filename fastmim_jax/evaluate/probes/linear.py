"""The linear probe: softmax regression on standardised features, by SGD at many learning rates at once."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.preprocessing import StandardScaler

from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import Labelled, ProbeResult, check_features, choose_best

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)


class LinearClassifiers(NamedTuple):
    """R linear classifiers that share their standardised features.

    weights: (R, D, K). bias: (R, K). Not finite where training diverged.
    """

    scaler: StandardScaler
    weights: np.ndarray
    bias: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return (R, N, K) float64 of (N, D) features."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.scaler.transform(x.astype(np.float64)) @ self.weights + self.bias[:, None]

    def accuracies(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return (R,) shares of (N, D) features classified correctly; nan where training diverged."""
        finite = np.isfinite(self.weights).all((1, 2)) & np.isfinite(self.bias).all(1)
        return np.where(finite, (self.logits(x).argmax(-1) == labels).mean(1), np.nan)


def fit(
    x: np.ndarray,
    labels: np.ndarray,
    classes: int,
    rates: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> LinearClassifiers:
    """Train one classifier for every learning rate; all see the same batches and start at zero.

    SGD with momentum 0.9, no weight decay, and half a cosine from the rate down to 0. Images are shuffled
    every epoch, and those that do not fill a batch are left out of it.

    Args:
      x: (N, D) features.
      labels: (N,) integers in [0, classes).
      rates: R learning rates, for the mean loss of a batch.
      batch_size: images per step; all, if there are fewer.
      seed: decides the order of the images.
    """
    scaler = StandardScaler().fit(x.astype(np.float64))
    z = jnp.asarray(scaler.transform(x.astype(np.float64)), jnp.float32)
    targets, learning_rates = jnp.asarray(labels), jnp.asarray(rates, jnp.float32)
    size = min(batch_size, len(x))
    steps = len(x) // size
    decay = optax.cosine_decay_schedule(1.0, epochs * steps)(np.arange(epochs * steps))
    params = jnp.zeros((len(rates), z.shape[1], classes)), jnp.zeros((len(rates), classes))
    state = params, jax.vmap(_optimizer(0.0).init)(params)
    rng = np.random.default_rng(seed)
    for factors in decay.reshape(epochs, steps):
        batches = rng.permutation(len(x))[: steps * size].reshape(steps, size)
        state = _epoch(state, z, targets, learning_rates, batches, factors)
    return LinearClassifiers(scaler, *map(np.asarray, state[0]))


def probe(
    train: Labelled,
    test: Labelled,
    classes: int,
    rates: Sequence[float] = RATES,
    *,
    epochs: int = 90,
    batch_size: int = 1024,
    seed: int = 0,
) -> ProbeResult:
    """Choose the learning rate on a held-out fifth of the training images, then train on all of them.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of classes.
      rates, epochs, batch_size: see `fit`; the first of equally good rates is chosen.
      seed: decides which images are held out, and the order of the images.

    Returns:
      ProbeResult; `held_out` has the rates.

    Raises:
      UserError: see `check_features` and `held_out`; every rate diverges.
    """
    (x, labels), test = check_features(train, test, classes)
    settings = dict(epochs=epochs, batch_size=batch_size, seed=seed)
    out = held_out(labels, seed)
    classifiers = fit(x[~out], labels[~out], classes, rates, **settings)
    accuracies = dict(zip(rates, classifiers.accuracies(x[out], labels[out]).tolist(), strict=True))
    best = choose_best(accuracies)
    accuracy = fit(x, labels, classes, [best], **settings).accuracies(*test)[0]
    return ProbeResult(float(accuracy), f"learning rate {best:g}", best, accuracies)


def _optimizer(rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=0.9)


@partial(jax.jit, donate_argnums=0)
def _epoch(
    state: Any, x: jax.Array, labels: jax.Array, rates: jax.Array, batches: jax.Array, factors: jax.Array
) -> Any:
    """One epoch of all classifiers.

    batches: (steps, B) rows of x. factors: (steps,), which the rates are multiplied by.
    """

    def step(state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        rows, factor = inputs
        update = jax.vmap(_update, in_axes=(0, 0, None, None))
        return update(state, factor * rates, x[rows], labels[rows]), None

    return jax.lax.scan(step, state, (batches, factors))[0]


def _update(state: Any, rate: jax.Array, x: jax.Array, labels: jax.Array) -> Any:
    """One step of one classifier; state: ((D, K) weights and (K,) bias, optimizer state)."""
    params, opt_state = state

    def loss(params: Any) -> jax.Array:
        logits = x @ params[0] + params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    updates, opt_state = _optimizer(rate).update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state
