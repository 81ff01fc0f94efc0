"""The frozen linear probe: one linear head for each layer, trained on augmented images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.masks.base import MaskedFiles
from fastmim_jax.evaluate.dense_probes.heads import DenseHeads, HeadState
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial
from fastmim_jax.evaluate.dense_probes.patch_features import PatchFeatures
from fastmim_jax.evaluate.dense_probes.tasks import DepthTask, Task, add_counts

EPOCHS = 60  # as published
MAX_STEPS = 20_000
MIN_STEPS = 200

Progress = Callable[[int], None] | None


class LinearProbe(NamedTuple):
    """Trained heads.

    Attributes:
      heads: their task and learning rates.
      states: layer -> R heads.
    """

    heads: DenseHeads
    states: dict[str, HeadState]


class LayerScores(NamedTuple):
    """Scores of a layer at the learning rate that is best on the images to choose by.

    Attributes:
      layer: its name.
      rate: number of the learning rate.
      held_out: main score on the images to choose by.
      counts: see `Task.count`, of the test images.
      scores: see `Task.summarize`.
    """

    layer: str
    rate: int
    held_out: float
    counts: np.ndarray
    scores: dict[str, float]


def number_of_steps(images: int, batch_size: int) -> int:
    """Return the number of updates for a number of training images: EPOCHS, within limits."""
    return int(min(MAX_STEPS, max(MIN_STEPS, round(EPOCHS * images / batch_size))))


def train(
    features: PatchFeatures, material: DenseMaterial, steps: int, seed: int = 0, progress: Progress = None
) -> LinearProbe:
    """Train heads on all layers of the features at once.

    Args:
      steps: number of updates.
      progress: called with the number of images done, or None.
    """
    heads, states = DenseHeads(material.task, steps), dict[str, HeadState]()
    images = material.images
    # Another scale would change the depths; they have no classes to balance.
    options: dict[str, Any] = {}
    if isinstance(material.task, DepthTask):
        options = {"scale": (1.0, 1.0), "max_class_share": float("inf")}
    batches = features.training(images.train, images.fit, seed, **options)
    for number, batch in enumerate(features.stream(batches, steps), 1):
        for layer, x in batch.features.items():
            state = states.get(layer) or heads.init(x.shape[-1])
            states[layer] = heads.update(state, x, batch.mask)
        if progress:
            progress(number * features.batch_size)
    return LinearProbe(heads, states)


def score_layers(
    features: PatchFeatures, material: DenseMaterial, probe: LinearProbe
) -> tuple[list[LayerScores], dict[str, float]]:
    """Return the scores of all layers on the test images, and those of the constant prediction."""
    images, task = material.images, material.task
    chosen_by, _ = _count(features, images.train, images.chosen_by, probe)
    tested, constant = _count(features, images.test, images.tested, probe, material.constant)
    lines = []
    for layer, counts in chosen_by.items():
        found = [_main(task, of_rate) for of_rate in counts]
        rate = int(np.argmax(found))
        best = tested[layer][rate]
        lines.append(LayerScores(layer, rate, found[rate], best, task.summarize(best)))
    return lines, task.summarize(constant)


def _count(
    features: PatchFeatures,
    masks: MaskedFiles,
    records: np.ndarray,
    probe: LinearProbe,
    constant: float = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """-> {layer: (R, ...) counts}, and the counts of a constant prediction."""
    task = probe.heads.task
    total: dict[str, Any] = dict.fromkeys(probe.states)
    of_constant: Any = None
    dtype = jnp.float32 if isinstance(task, DepthTask) else jnp.int32
    for batch in features.stream(features.evaluation(masks, records)):
        for layer, state in probe.states.items():
            counts = probe.heads.count(state, batch.features[layer], batch.mask)
            total[layer] = add_counts(total[layer], counts)
        guess = jnp.full(batch.mask.shape, constant, dtype)
        of_constant = add_counts(of_constant, task.count(guess, batch.mask))
    return total, of_constant


def _main(task: Task, counts: np.ndarray) -> float:
    """-> the main score, -1 where there is none."""
    return float(np.nan_to_num(task.summarize(counts)[task.main], nan=-1.0))
