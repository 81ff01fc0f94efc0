"""The frozen linear probe: one linear head for each layer, trained on augmented images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.evaluate.dense_probes.heads import DenseHeads, HeadState
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial
from fastmim_jax.evaluate.dense_probes.patch_features import PatchFeatures
from fastmim_jax.evaluate.dense_probes.tasks import DepthTask, Task
from fastmim_jax.evaluate.dense_probes.whole_images import Evaluation, LinearProbe

EPOCHS = 60  # as published
MAX_STEPS = 20_000
MIN_STEPS = 200

Progress = Callable[[int], None] | None


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
    evaluation: Evaluation, material: DenseMaterial, probe: LinearProbe
) -> tuple[list[LayerScores], dict[str, float]]:
    """Return the scores of all layers on the test images, and those of the constant prediction."""
    images, task = material.images, material.task
    chosen_by = evaluation.count(images.train, images.chosen_by, probe).of_layers
    tested = evaluation.count(images.test, images.tested, probe, material.constant)
    lines = []
    for layer, counts in chosen_by.items():
        found = [_main(task, of_rate) for of_rate in counts]
        rate = int(np.argmax(found))
        best = tested.of_layers[layer][rate]
        lines.append(LayerScores(layer, rate, found[rate], best, task.summarize(best)))
    return lines, task.summarize(tested.constant)


def _main(task: Task, counts: np.ndarray) -> float:
    """-> the main score, -1 where there is none."""
    return float(np.nan_to_num(task.summarize(counts)[task.main], nan=-1.0))
