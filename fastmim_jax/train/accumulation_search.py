"""The search for the fewest micro-batches whose compiled step fits in memory, by few compilations."""

import math
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from fastmim_jax.mim.mixmim import micro_batch_split
from fastmim_jax.train.liveness import peak_bytes
from fastmim_jax.train.memory import argument_bytes, compiled_bytes, reading_bytes
from fastmim_jax.train.stage import TrainStage

PROGRAMS = 3  # compiled at most, while one fits
MISJUDGED = 1.05  # factor by which a prediction may be too high: a number that near the limit is tried
PER_ESTIMATE = 1.3  # bytes of a compiled step per estimated byte, before the first is compiled

AnyStage = TypeVar("AnyStage", bound=TrainStage)


class Choice(NamedTuple):
    """A number of micro-batches.

    accumulation: None if none fits. needs: {number: bytes} of the compiled ones.
    """

    accumulation: int | None
    needs: dict[int, float]


def search(
    numbers: Sequence[int],
    estimate: Callable[[int], float],
    measure: Callable[[int], float],
    limit: float,
    per_estimate: float = PER_ESTIMATE,
) -> Choice:
    """Return the smallest number of micro-batches whose program fits, from few programs.

    Args:
      numbers: allowed ones, ascending.
      estimate: number -> bytes, roughly; falling.
      measure: number -> bytes of the compiled program; infinite if it could not be compiled for its size.
      limit: bytes.
      per_estimate: bytes of a program per estimated byte, before the first is compiled.
    """
    scale, tolerance, needs = per_estimate, 1.0, dict[int, float]()

    def hopeful(candidates: Sequence[int]) -> int | None:
        return next((n for n in candidates if scale * estimate(n) <= limit * tolerance), None)

    number = hopeful(numbers) or numbers[-1]
    while True:
        needs[number] = measure(number)
        if math.isfinite(needs[number]):
            scale = needs[number] / estimate(number)
        best = min((n for n, need in needs.items() if need <= limit), default=None)
        too_few = max((n for n, need in needs.items() if need > limit), default=0)
        between = [n for n in numbers if too_few < n and (best is None or n < best)]
        tolerance = 1.0 if best is None else MISJUDGED
        following = hopeful(between)
        if best is None:
            if not between:
                return Choice(None, needs)
            number = following or between[-1]
        elif following is None or len(needs) >= PROGRAMS:
            return Choice(best, needs)
        else:
            number = following


def allowed_accumulations(stage: TrainStage) -> list[int]:
    """Return the numbers of micro-batches that split the batch of a stage, ascending.

    Every micro-batch has as many images on each device and in each group of a batch norm, and pairs of
    MixMIM stay together.
    """
    batch = stage.plan.batch_size
    unit = math.lcm(stage.plan.devices, stage.model.encoder.norm_groups)
    if batch % unit:
        return [1]
    numbers = [number for number in range(1, batch // unit + 1) if (batch // unit) % number == 0]
    groups = _mixing_groups(stage)
    return [n for n in numbers if n == 1 or not groups or micro_batch_split(batch, groups, n)]


def _mixing_groups(stage: TrainStage) -> int:
    """Return the number of groups whose images MixMIM mixes; 0 for methods that mix none."""
    batch = stage.plan.batch_size
    noise_shape = getattr(stage.model, "noise_shape", None)
    if noise_shape is None or noise_shape((batch, *stage.reader.image_shape))[0] == batch:
        return 0
    return stage.model.groups


class Programs(Generic[AnyStage]):
    """The steps of a stage by number of micro-batches, compiled once, and their bytes on one device."""

    def __init__(self, stage: AnyStage):
        self.stage, self.stages = stage, {stage.plan.accumulation: stage}
        self.needs: dict[int, float] = {}
        self._estimates: dict[int, float] = {}
        self.batch = stage.abstract_batch()

    def at(self, number: int) -> AnyStage:
        if number not in self.stages:
            self.stages[number] = self.stage.with_accumulation(number)
        return self.stages[number]

    def compile(self, number: int) -> float:
        """Return the bytes of a program on one device, the most of all processes."""
        stage = self.at(number)
        self.needs[number] = compiled_bytes(stage.step, stage.abstract, self.batch)
        return self.needs[number]

    def estimate(self, number: int) -> float:
        """Return bytes roughly: affine in the size of a micro-batch, from the smallest and the largest."""
        numbers = allowed_accumulations(self.stage)
        if number == 1:
            return self._traced(1)
        whole, least = self._traced(1), self._traced(numbers[-1])
        slope = (whole - least) / (1 - 1 / numbers[-1])
        return whole - slope * (1 - 1 / number)

    def _traced(self, number: int) -> float:
        if number not in self._estimates:
            stage = self.at(number)
            jaxpr = stage.step.trace(stage.abstract, self.batch).jaxpr.jaxpr
            # Devices share the images and their activations; gradients are as large as the parameters, and
            # every device has gradients of a micro-batch and sums of its own.
            gradients = argument_bytes(stage.abstract.params) * (1 if number == 1 else 2)
            of_all = gradients * (1 if number == 1 else stage.plan.devices)
            activations = max(0, peak_bytes(jaxpr) - of_all) / stage.plan.devices
            held = argument_bytes((stage.abstract, self.batch))
            self._estimates[number] = held + gradients + activations
        return self._estimates[number]

    def beside(self) -> int:
        """Return the bytes of a run beside its step: on CPUs, of the reader and a checkpoint's copy."""
        if self.stage.mesh.devices.flat[0].platform != "cpu":
            return 0
        return argument_bytes(self.stage.abstract) + reading_bytes(self.batch, self.stage.mesh)
