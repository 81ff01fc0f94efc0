"""Evaluation of dense probes on images that are resized as a whole to the size of the crop."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastmim_jax.data.masks.augment import fit
from fastmim_jax.data.masks.base import MaskedImages
from fastmim_jax.evaluate.dense_probes.heads import DenseHeads, HeadState
from fastmim_jax.evaluate.dense_probes.patch_features import PatchFeatures
from fastmim_jax.evaluate.dense_probes.tasks import add_counts, constant_counts


class LinearProbe(NamedTuple):
    """Trained heads.

    Attributes:
      heads: their task and learning rates.
      states: layer -> R heads.
    """

    heads: DenseHeads
    states: dict[str, HeadState]


class ProbeCounts(NamedTuple):
    """`Task.count` of a data set.

    of_layers: layer -> (R, ...), of each of its R heads. constant: of a constant prediction.
    """

    of_layers: dict[str, np.ndarray]
    constant: np.ndarray


class Predicted(NamedTuple):
    """An image with the prediction of a head.

    image: (H, W, 3) uint8. truth: (H, W) of its mask. prediction: (H, W).
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Evaluation(Protocol):
    """A way to evaluate linear heads on images; every process calls it alike and gets the same."""

    def describe(self) -> str:
        """Return how images are read, as words after "evaluated on"."""

    def count(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, constant: float = 0
    ) -> ProbeCounts:
        """Compare the predictions of all heads, and a constant one, with the masks of records."""

    def predict(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, layer: str, rate: int
    ) -> Iterator[Predicted]:
        """Yield the records with the predictions of a head of a layer, in order."""


class WholeImages:
    """An `Evaluation` on images and masks that are resized as a whole to the size of the crop."""

    def __init__(self, features: PatchFeatures):
        self._features = features

    def describe(self) -> str:
        """See `Evaluation`."""
        height, width = self._features.size
        return f"whole images resized to {height} x {width} pixels"

    def count(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, constant: float = 0
    ) -> ProbeCounts:
        """See `Evaluation`."""
        total: dict[str, Any] = dict.fromkeys(probe.states)
        of_constant: Any = None
        for batch in self._features.stream(self._features.evaluation(masks, records)):
            for layer, state in probe.states.items():
                counts = probe.heads.count(state, batch.features[layer], batch.mask)
                total[layer] = add_counts(total[layer], counts)
            counts = constant_counts(probe.heads.task, constant, batch.mask)
            of_constant = add_counts(of_constant, counts)
        return ProbeCounts(total, of_constant)

    def predict(
        self, masks: MaskedImages, records: np.ndarray, probe: LinearProbe, layer: str, rate: int
    ) -> Iterator[Predicted]:
        """See `Evaluation`."""
        size = self._features.size
        for batch in self._features.stream(self._features.evaluation(masks, records)):
            predicted = probe.heads.predict(probe.states[layer], batch.features[layer], size, rate)
            rows = zip(*map(np.asarray, (batch.records, batch.mask, predicted)), strict=True)
            for record, truth, prediction in rows:
                if record >= 0:  # padding has -1
                    image = masks.read(int(record)).image
                    yield Predicted(fit(image, truth, size)[0], truth, prediction)
