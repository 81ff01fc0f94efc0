"""Losses with a meaning: those of trivial predictors, and that of images which are not trained on."""

import numpy as np

HELD_OUT_SEED = 20221213  # fixed, so that every run of a data set is judged by the same crops


def fixed_batches(run, source, records, shuffle=True):
    """About `records` records in a fixed order and with fixed crops: (batch size, [host batch])."""
    devices = run.plan.devices
    largest = min(run.plan.batch_size // run.plan.accumulation, max(records, devices))
    size = largest // devices * devices
    with run.loader(source, batch_size=size, seed=HELD_OUT_SEED, shuffle=shuffle) as loader:
        batches = iter(loader)
        return size, [next(batches) for _ in range(max(1, records // size))]


class HeldOutLoss:
    """Mean loss over fixed batches with fixed masks; called with (step, state)."""

    def __init__(self, run, size, batches, name="eval_loss"):
        self._run, self._size, self._batches, self.name = run, size, batches, name

    def __call__(self, step, state):
        """-> {name: loss}."""
        losses = [
            self._run.loss(state, self._run.to_devices(batch, self._size), np.int32(index))
            for index, batch in enumerate(self._batches)
        ]
        return {self.name: float(np.mean([float(loss) for loss in losses]))}


def trivial_losses(run, state, size, batches):
    """Loss of always predicting zero, and of predicting the mean target of these very batches.

    Returns:
      {"zero": ..., "mean target": ...}
    """
    method, channels = run.method, run.config.data.channels
    zero = np.zeros(method.target.values(method.cell, channels), np.float32)

    def constant(guess):
        """Mean loss of a guess, and the mean target; batches are alike in how much of them counts."""
        found = [
            run.constant(state, run.to_devices(batch, size), np.int32(index), guess)
            for index, batch in enumerate(batches)
        ]
        losses, means = zip(*found, strict=True)
        return float(np.mean(np.asarray(losses, np.float64))), np.mean(np.asarray(means), axis=0)

    loss, mean = constant(zero)
    return {"zero": loss, "mean target": constant(mean)[0]}
