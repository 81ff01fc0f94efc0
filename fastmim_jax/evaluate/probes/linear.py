"""The linear probe: softmax regression on standardised features, by SGD at many learning rates at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fastmim_jax.evaluate.probes.affine import Affine, accuracies, chunks, moments, standardise
from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import Result, check, choose

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
HELD_OUT = 0.2
MOMENTUM = optax.trace(0.9)


def fit(x, labels, classes, rates, *, epochs, batch_size, seed):
    """One classifier for every learning rate; all see the same batches and begin at zero.

    SGD with momentum 0.9, no weight decay, and half a cosine from the rate down to 0. Every epoch has
    another order; the images left over from whole batches are left out of it.

    Args:
      x: (N, D) features.
      labels: (N,) whole numbers in [0, classes).
      rates: R learning rates, for the mean loss of a batch.
      batch_size: images a step; all, if there are fewer.
      seed: of the order.

    Returns:
      Affine of R classifiers, intercept (R, K); not finite where training diverged.
    """
    mean, std = moments(x)
    z = np.concatenate([standardise(x[r], mean, std).astype(np.float32) for r in chunks(len(x))])
    z, labels, rates = jnp.asarray(z), jnp.asarray(labels), jnp.asarray(rates, jnp.float32)
    size = min(batch_size, len(x))
    steps = len(x) // size
    decay = 0.5 * (1 + np.cos(np.pi * np.arange(epochs * steps) / (epochs * steps)))
    params = jnp.zeros((len(rates), z.shape[1], classes)), jnp.zeros((len(rates), classes))
    state = params, jax.vmap(MOMENTUM.init)(params)
    rng = np.random.default_rng(seed)
    for factors in decay.astype(np.float32).reshape(epochs, steps):
        batches = rng.permutation(len(x))[: steps * size].reshape(steps, size)
        state = _epoch(state, z, labels, rates, batches, factors)
    weights, intercept = map(np.asarray, state[0])
    return Affine(mean, std, weights, intercept)


def probe(train, test, classes, rates=RATES, *, epochs=90, batch_size=1024, seed=0):
    """Chooses the learning rate on held-out training images, then trains on all of them.

    Args:
      train, test: (features (N, D), labels (N,)) each.
      classes: number of them.
      rates, epochs, batch_size: as of `fit`; of equally good rates the first is taken.
      seed: of which images are held out, HELD_OUT of them, and of the order.

    Returns:
      Result; `tried` has the rates.

    Raises:
      UserError: as `result.check` and `folds.held_out`; every rate diverges.
    """
    (x, labels), test = check(train, test, classes)
    settings = dict(epochs=epochs, batch_size=batch_size, seed=seed)
    out = held_out(labels, HELD_OUT, seed)
    fitted = fit(x[~out], labels[~out], classes, rates, **settings)
    finite = np.isfinite(fitted.weights).all((1, 2)) & np.isfinite(fitted.intercept).all(1)
    found = np.full(len(rates), np.nan)
    kept = fitted._replace(weights=fitted.weights[finite], intercept=fitted.intercept[finite])
    found[finite] = accuracies(kept, x[out], labels[out])
    tried = dict(zip(rates, found.tolist(), strict=True))
    chosen = choose(tried)
    accuracy = accuracies(fit(x, labels, classes, [chosen], **settings), *test)
    return Result(float(accuracy[0]), f"learning rate {chosen:g}", chosen, tried)


@partial(jax.jit, donate_argnums=0)
def _epoch(state, x, labels, rates, batches, factors):
    """batches: (steps, B) rows of x. factors: (steps,), what the rates are multiplied by."""

    def step(state, now):
        rows, factor = now
        update = jax.vmap(_update, in_axes=(0, 0, None, None))
        return update(state, factor * rates, x[rows], labels[rows]), None

    return jax.lax.scan(step, state, (batches, factors))[0]


def _update(state, rate, x, labels):
    """One step of one classifier: (D, K) weights and (K,) intercept, with their momentum."""
    params, momentum = state

    def loss(params):
        logits = x @ params[0] + params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    moves, momentum = MOMENTUM.update(jax.grad(loss)(params), momentum)
    return jax.tree.map(lambda value, move: value - rate * move, params, moves), momentum
