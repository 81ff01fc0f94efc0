"""The attentive probe over the tokens of a frozen layer, which are computed anew and never stored."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fastmim_jax.evaluate.probes.attentive_head import AttentiveHeads
from fastmim_jax.evaluate.probes.folds import held_out
from fastmim_jax.evaluate.probes.result import ProbeResult, choose_best
from fastmim_jax.train import sharding
from fastmim_jax.train.inference import compile_eval

EPOCHS = 10
MAX_HEADS = 12


def probe(
    backbone: Any, layer: str, train: Any, test: Any, classes: int, epochs: int = EPOCHS, seed: int = 0
) -> ProbeResult:
    """Train heads at several learning rates at once on four fifths of the training images.

    Args:
      backbone: `backbone.BackboneStage`.
      layer: one of its layers.
      train, test: `probe.Images`.
      classes: number of classes.
      seed: decides which images are held out, their order and the initial values.

    Returns:
      ProbeResult; the learning rate is the best on the fifth that is held out.
    """
    labels = np.array([train.source.label(int(record)) for record in train.records])
    out = held_out(labels, seed)
    fit_records, held_out_records = train.records[~out], train.records[out]
    size = backbone.batch_size_for(len(fit_records))
    stream = _stream(backbone, layer, size)
    width = next(stream(train.source, fit_records[:1]))[0].shape[-1]
    steps = epochs * -(-len(fit_records) // size)
    heads = AttentiveHeads(classes, width, _num_heads(width), steps=steps, seed=seed)
    state, rng = heads.init(), np.random.default_rng(seed)
    for _ in range(epochs):
        for tokens, label in stream(train.source, rng.permutation(fit_records)):
            state = heads.update(state, tokens, label)

    def accuracies(source: Any, records: np.ndarray) -> np.ndarray:
        correct, count = np.zeros(len(heads.rates), np.int64), 0
        for tokens, label in stream(source, records):
            correct = correct + np.asarray(heads.count_correct(state, tokens, label))
            count += int((np.asarray(label) >= 0).sum())
        return correct / max(count, 1)

    found = dict(zip(heads.rates, accuracies(train.source, held_out_records).tolist(), strict=True))
    best = choose_best(found)
    accuracy = accuracies(test.source, test.records)[heads.rates.index(best)]
    return ProbeResult(float(accuracy), f"learning rate {best:g}", best, found)


def _stream(
    backbone: Any, layer: str, size: int
) -> Callable[[Any, np.ndarray], Iterator[tuple[jax.Array, jax.Array]]]:
    """Return (source, records) -> iterator over (tokens (B, N, D), label (B,), -1 for a row of padding)."""

    def tokens_and_label(
        variables: dict, images: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return backbone.tokens(variables, images, layer), label

    rows = sharding.batch_sharding(backbone.mesh)
    of_batch = compile_eval(
        "the tokens of the backbone", tokens_and_label, backbone.variables, backbone.mesh, rows, rows
    )

    def stream(source: Any, records: np.ndarray) -> Iterator[tuple[jax.Array, jax.Array]]:
        with backbone.eval_batches(source, size, records) as batches:
            for batch in batches:
                label = np.where(batch["valid"], batch["label"], -1).astype(np.int32)
                names = ("image", "label")
                arrays = backbone.to_devices({"image": batch["image"], "label": label}, size, names)
                found = of_batch(backbone.variables, arrays["image"], arrays["label"])
                # Every device has all rows: each process trains its own heads, on one of its devices.
                yield tuple(array.addressable_data(0) for array in found)

    return stream


def _num_heads(width: int) -> int:
    """Return the largest number of heads up to MAX_HEADS that divides the width."""
    return max(heads for heads in range(1, MAX_HEADS + 1) if width % heads == 0)
