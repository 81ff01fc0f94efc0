"""The numbers that follow from a config and its data: steps, epochs, learning rates and grids.

Stages (FastMIM-P) may differ in image, batch and block size, so positions in a run are counted in records;
epochs and learning rates follow from them in every stage.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.stages import AUTO, at_stage, micro_batches, stage_count
from fastmim_jax.validate import check_steps
from fastmim_jax.validate.names import flag

LR_BATCH = 256  # base learning rates are for batches of this many images (linear rule)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """The numbers of one stage of a run, and those of the run that it needs.

    Steps are updates, counted over the run; a stage has the steps first_step + 1 to last_step.
    """

    records: int
    batch_size: int
    accumulation: int  # micro-batches; 1 until it is chosen, if auto_accumulation
    auto_accumulation: bool
    devices: int
    stage: int  # counted from 0
    stages: int
    first_step: int
    last_step: int
    first_record: int  # records read before the stage
    total_steps: int
    total_epochs: float
    warmup_epochs: float
    peak_lr: float
    min_lr: float
    warmup_lr: float  # of the first step of the run
    image_size: tuple[int, int]  # (height, width) in pixels

    @property
    def steps_per_epoch(self) -> float:
        """Updates per epoch in this stage."""
        return self.records / self.batch_size

    def epoch(self, step: Any) -> Any:
        """Return the epochs done after `step` updates of the run, a number or array; in this stage."""
        return self.first_record / self.records + (step - self.first_step) / self.steps_per_epoch

    def record(self, step: int) -> int:
        """Return the records read after `step` updates of the run; in this stage."""
        return self.first_record + (step - self.first_step) * self.batch_size


@dataclasses.dataclass(frozen=True)
class PretrainPlan(StagePlan):
    """The numbers of one stage of pre-training."""

    grid: tuple[int, int]  # tokens (h, w)
    blocks: tuple[int, int]  # blocks (h, w), each masked or visible
    num_masked: int  # masked blocks of every image


WARMUP_SHARE = 0.2  # of a run; more is most likely a mistake


def plan_warnings(plan: StagePlan) -> list[str]:
    """Return sentences on a schedule that the data is too small for."""
    sentences = []
    if plan.warmup_epochs > WARMUP_SHARE * plan.total_epochs:
        fitting = float(f"{WARMUP_SHARE / 4 * plan.total_epochs:.2g}")
        sentences.append(
            f"the warm-up takes {plan.warmup_epochs:,.3g} of {plan.total_epochs:,.3g} epochs, more than a "
            f"fifth of the run: type {flag('schedule.warmup_epochs', fitting)}, or train longer"
        )
    if plan.batch_size > plan.records:
        sentences.append(
            f"a batch of {plan.batch_size:,} holds some of the {plan.records:,} images more than once: "
            f"type {flag('schedule.batch_size', 1 << (max(1, plan.records // 2).bit_length() - 1))}"
        )
    if plan.total_epochs < 1:
        sentences.append(
            f"the run ends after {plan.total_epochs:.2g} of an epoch, before it has seen every image: "
            "type a larger --config.schedule.epochs or --config.schedule.steps"
        )
    return sentences


def make_pretrain_plan(
    config: ConfigDict,
    *,
    records: int,
    stride: int,
    num_masked: Callable[[int], int],
    devices: int,
    stage: int = 0,
) -> PretrainPlan:
    """Compute the plan of a stage of pre-training from a validated config.

    Args:
      config: of the run.
      records: images in the training data.
      stride: pixels per token of the backbone.
      num_masked: number of blocks -> number of masked ones.
      devices: over all processes.
      stage: counted from 0.

    Raises:
      UserError: a stage without an update.
    """
    plan = make_stage_plan(config, records=records, devices=devices, stage=stage)
    block, (height, width) = at_stage(config, stage).method.block_size, plan.image_size
    blocks = (height // block, width // block)
    return PretrainPlan(
        **vars(plan),
        grid=(height // stride, width // stride),
        blocks=blocks,
        num_masked=num_masked(blocks[0] * blocks[1]),
    )


def make_stage_plan(config: ConfigDict, *, records: int, devices: int, stage: int = 0) -> StagePlan:
    """Compute the plan of a stage of any training; arguments and errors as of `make_pretrain_plan`."""
    stages = [at_stage(config, index) for index in range(stage_count(config))]
    schedule = stages[stage].schedule
    batches = [other.schedule.batch_size for other in stages]
    steps = _stage_steps(config, records, batches)
    first_steps = [0, *itertools.accumulate(steps)]
    first_records = [0, *itertools.accumulate(n * batch for n, batch in zip(steps, batches, strict=True))]
    lr_scale = schedule.batch_size / LR_BATCH
    total_epochs = first_records[-2] / records + steps[-1] / (records / batches[-1])
    return StagePlan(
        records=records,
        batch_size=schedule.batch_size,
        accumulation=micro_batches(schedule),
        auto_accumulation=schedule.accumulation == AUTO,
        devices=devices,
        stage=stage,
        stages=len(stages),
        first_step=first_steps[stage],
        last_step=first_steps[stage + 1],
        first_record=first_records[stage],
        total_steps=first_steps[-1],
        total_epochs=total_epochs,
        warmup_epochs=min(schedule.warmup_epochs, total_epochs),
        peak_lr=config.optimizer.base_lr * lr_scale,
        min_lr=config.optimizer.min_base_lr * lr_scale,
        warmup_lr=config.optimizer.warmup_base_lr * lr_scale,
        image_size=tuple(stages[stage].data.image_size),
    )


def _stage_steps(config: ConfigDict, records: int, batches: list[int]) -> list[int]:
    """Return the updates of each stage: a stage ends at the update nearest to its end epoch."""
    ends, total = _end_epochs(config, records, batches), config.schedule.steps
    steps, record = [], 0
    for end, batch in zip(ends[:-1], batches[:-1], strict=True):
        steps.append(round((end * records - record) / batch))
        record += steps[-1] * batch
    remaining = (ends[-1] - record / records) * (records / batches[-1])
    steps.append(total - sum(steps) if total else int(remaining))
    check_steps(steps, config.schedule.epochs, records, batches[0])
    return steps


def _end_epochs(config: ConfigDict, records: int, batches: list[int]) -> list[float]:
    """Return the epoch at which each stage ends."""
    stages, epochs = len(batches), config.schedule.epochs
    if config.schedule.steps:  # spread over stages of equally many epochs
        epochs = config.schedule.steps * stages / sum(records / batch for batch in batches)
    starts = list(config.stages.start_epochs) if stages > 1 else []
    if not starts:
        return [epochs * (stage + 1) / stages for stage in range(stages - 1)] + [epochs]
    return [*starts[1:], epochs]
