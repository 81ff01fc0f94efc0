"""The attentive probe over the tokens of a frozen layer, which are computed anew and never stored."""

from functools import partial

import jax
import numpy as np

from fastmim_jax.evaluate.probes.attentive_head import Attentive
from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import Result, choose
from fastmim_jax.train import sharding
from fastmim_jax.train.inference import compile_eval

EPOCHS = 10
HELD_OUT = 0.2
MOST_HEADS = 12


def probe(frozen, layer, train, test, classes, epochs=EPOCHS, seed=0):
    """Trains heads at several learning rates at once on four fifths of the training images.

    Args:
      frozen: `backbone.BackboneStage`. layer: one of its layers.
      train, test: `probe.Images`.
      classes: number of them.

    Returns:
      Result; the learning rate is the best on the fifth that is held out.
    """
    labels = np.array([train.source.label(int(record)) for record in train.records])
    out = held_out(labels, HELD_OUT, seed)
    fitted, chosen = train.records[~out], train.records[out]
    size = frozen.batch_size_for(len(fitted))
    stream = _stream(frozen, layer, size)
    width = next(stream(train.source, fitted[:1]))[0].shape[-1]
    steps = epochs * -(-len(fitted) // size)
    heads = Attentive(classes, width, _heads(width), steps=steps, seed=seed)
    state, random = heads.init(), np.random.default_rng(seed)
    for _ in range(epochs):
        for tokens, label in stream(train.source, random.permutation(fitted)):
            state = heads.update(state, tokens, label)

    def accuracies(source, records):
        right, seen = 0, 0
        for tokens, label in stream(source, records):
            right = right + np.asarray(heads.accuracies(state, tokens, label))
            seen += int((np.asarray(label) >= 0).sum())
        return right / max(seen, 1)

    tried = dict(zip(heads.rates, accuracies(train.source, chosen).tolist(), strict=True))
    best = choose(tried)
    accuracy = accuracies(test.source, test.records)[heads.rates.index(best)]
    return Result(float(accuracy), f"learning rate {best:g}", best, tried)


def _stream(frozen, layer, size):
    """-> (source, records) -> iterator over (tokens (B, N, D), label (B,), -1 where there is no image)."""
    whole = sharding.replicated(frozen.mesh)
    function = partial(frozen.tokens, layer=layer)
    program = compile_eval(function, frozen.variables, frozen.mesh, sharding.batch_sharding(frozen.mesh))

    def stream(source, records):
        with frozen.eval_batches(source, size, records) as batches:
            for batch in batches:
                label = np.where(batch["valid"], batch["label"], -1).astype(np.int32)
                there = frozen.to_devices(
                    {"image": batch["image"], "label": label}, size, ("image", "label")
                )
                yield program(frozen.variables, there["image"]), jax.device_put(there["label"], whole)

    return stream


def _heads(width):
    """The largest number of heads up to MOST_HEADS that divides the width."""
    return max(heads for heads in range(1, MOST_HEADS + 1) if width % heads == 0)
