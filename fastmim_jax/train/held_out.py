"""Losses to compare with: of trivial predictors, and of images that are not trained on."""

import logging
from typing import Any

import numpy as np

from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.inference import MethodStage
from fastmim_jax.train.state import TrainState

_LOG = logging.getLogger("fastmim_jax.data")
HELD_OUT_SEED = 20221213  # one seed for all runs, so that their losses are of the same crops


def fixed_batches(
    stage: MethodStage, source: Any, records: int, shuffle: bool = True
) -> tuple[int, list[dict[str, np.ndarray]]]:
    """Return (batch size, [host batch]) of about `records` records in a fixed order, with fixed crops."""
    devices = stage.device_count
    size = min(stage.eval_batch_size, max(records, devices)) // devices * devices
    crops = stage.reader.random_crops(
        source, batch_size=size, seed=HELD_OUT_SEED, rows=stage.rows(size), shuffle=shuffle
    )
    with crops as loader:
        rows = iter(loader)
        batches = [next(rows) for _ in range(max(1, records // size))]
    replaced = sum(int((batch["num_undecodable"] > 0).sum()) for batch in batches)
    if replaced:
        _LOG.warning(f"{source!r}: {replaced:,} of the images shown or held out were replaced: undecodable")
    return size, batches


class HeldOutLoss:
    """Mean loss over fixed batches with fixed masks; called with (step, state)."""

    def __init__(
        self, stage: MethodStage, size: int, batches: list[dict[str, np.ndarray]], name: str = "eval_loss"
    ):
        self._stage, self._size, self._batches, self.name = stage, size, batches, name

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Return {name: loss}."""
        variables, losses = state.eval_variables(), []
        for index, batch in enumerate(self._batches):
            begin_unit()
            arrays = self._stage.to_devices(batch, self._size)
            losses.append(self._stage.loss(variables, arrays, np.int32(index)))
        return {self.name: float(np.mean([float(loss) for loss in losses]))}


def trivial_losses(
    stage: MethodStage, variables: dict, size: int, batches: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    """Return the loss of always predicting zero, and of always predicting the mean target of the batches.

    Returns:
      {"zero": ..., "mean target": ...}
    """
    method, channels = stage.model, stage.reader.channels
    zero = np.zeros(method.target.values(method.output_stride, channels), np.float32)

    def constant(guess):
        """Return the mean loss of a guess and the mean target; each batch counts alike."""
        outputs = [
            stage.constant(variables, stage.to_devices(batch, size), np.int32(index), guess)
            for index, batch in enumerate(batches)
        ]
        losses, means = zip(*outputs, strict=True)
        return float(np.mean(np.asarray(losses, np.float64))), np.mean(np.asarray(means), axis=0)

    loss, mean = constant(zero)
    return {"zero": loss, "mean target": constant(mean)[0]}
