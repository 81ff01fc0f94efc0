"""The numbers that follow from a config, and its validation. No other place computes them.

A run has one stage, or several (FastMIM-P) that differ in their images, batches, blocks and windows.
Positions in a run are counted in records: epochs and learning rates follow from them in every stage.
"""

import dataclasses
import itertools

from fastmim_jax.config import CHOICES
from fastmim_jax.errors import UserError
from fastmim_jax.stages import at_stage, stage_count, stage_lengths

LR_BATCH = 256  # base learning rates are given for this many images (linear rule)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """How a stage of a run goes on, and the numbers of the whole run that this needs.

    Steps are updates, counted over the whole run; a stage does first_step + 1 to last_step.
    """

    records: int
    batch_size: int
    accumulation: int
    devices: int
    stage: int
    stages: int
    first_step: int
    last_step: int
    first_record: int
    total_steps: int
    total_epochs: float
    warmup_epochs: float
    peak_lr: float
    min_lr: float
    warmup_lr: float  # of the very first step
    image_size: tuple[int, int]

    @property
    def steps_per_epoch(self):
        """Of this stage."""
        return self.records / self.batch_size

    def epoch(self, step):
        """Epochs done after `step` updates of the run, a number or array; in this stage."""
        return self.first_record / self.records + (step - self.first_step) / self.steps_per_epoch

    def record(self, step):
        """Records read after `step` updates of the run, in this stage."""
        return self.first_record + (step - self.first_step) * self.batch_size


@dataclasses.dataclass(frozen=True)
class PretrainPlan(StagePlan):
    """The numbers of one stage of pre-training."""

    grid: tuple[int, int]  # tokens (h, w)
    blocks: tuple[int, int]  # cells that are hidden or shown as a whole
    num_masked: int  # masked blocks of every image


def make_pretrain_plan(config, *, records, stride, unit, devices, stage=0, num_masked=None, groups=1):
    """Validates a config against its data, backbone and devices, and computes the Plan of a stage.

    Args:
      records: images in the training data.
      stride: pixels per token of the backbone.
      unit: pixels per value of the target (8 for a HOG cell, 1 for pixels).
      devices: over all processes.
      stage: counted from 0.
      num_masked: cells -> how many of them are masked; None: all but the visible ones of random masking.
      groups: parts that a batch must divide into, evenly and as pairs, where there are more than one.

    Raises:
      UserError: a choice that cannot work, in one sentence that says what to type.
    """
    _check_lengths(config)
    own = at_stage(config, stage)
    course = make_stage_plan(config, records=records, devices=devices, stage=stage)
    grid, blocks = _check_geometry(own.method, course.image_size, stride, unit)
    masked = _check_ratio(own.method.mask_ratio, blocks[0] * blocks[1], num_masked)
    _check_groups(own.schedule, groups)
    return PretrainPlan(**vars(course), grid=grid, blocks=blocks, num_masked=masked)


def make_stage_plan(config, *, records, devices, stage=0):
    """Validates what any training has in its config, and computes the Course of a stage.

    Arguments and errors are those of `make_pretrain_plan`.
    """
    _check_lengths(config)
    stages = [at_stage(config, index) for index in range(stage_count(config))]
    own = stages[stage]
    _check_choices(own)
    schedule = own.schedule
    _check_batch(schedule, devices, config.run.mesh_fsdp)
    batches = [other.schedule.batch_size for other in stages]
    steps = _stage_steps(config, records, batches)
    firsts = [0, *itertools.accumulate(steps)]
    read = [count * batch for count, batch in zip(steps, batches, strict=True)]
    records_at = [0, *itertools.accumulate(read)]
    lr_scale = schedule.batch_size / LR_BATCH
    total_epochs = records_at[-2] / records + steps[-1] / (records / batches[-1])
    return StagePlan(
        records=records,
        batch_size=schedule.batch_size,
        accumulation=schedule.accumulation,
        devices=devices,
        stage=stage,
        stages=len(stages),
        first_step=firsts[stage],
        last_step=firsts[stage + 1],
        first_record=records_at[stage],
        total_steps=firsts[-1],
        total_epochs=total_epochs,
        warmup_epochs=min(schedule.warmup_epochs, total_epochs),
        peak_lr=config.optimizer.base_lr * lr_scale,
        min_lr=config.optimizer.min_base_lr * lr_scale,
        warmup_lr=config.optimizer.warmup_base_lr * lr_scale,
        image_size=_check_size(own.data.image_size),
    )


def _stage_steps(config, records, batches):
    """Updates of each stage: all but the last end at the update nearest to the next one's start."""
    ends, total = _stage_ends(config, records, batches), config.schedule.steps
    steps, record = [], 0
    for end, batch in zip(ends[:-1], batches[:-1], strict=True):
        steps.append(round((end * records - record) / batch))
        record += steps[-1] * batch
    left = (ends[-1] - record / records) * (records / batches[-1])
    steps.append(total - sum(steps) if total else int(left))
    short = min(range(len(steps)), key=steps.__getitem__)
    if steps[short] < 1 and len(steps) > 1:
        raise UserError(
            f"stage {short + 1} of {len(steps)} would have {steps[short]} updates: raise "
            "--config.schedule.epochs, or set --config.stages.start_epochs with room between them"
        )
    if steps[short] < 1:
        raise UserError(
            f"{config.schedule.epochs:g} epochs of {records:,} records are less than one batch of "
            f"{batches[0]:,}: lower --config.schedule.batch_size or set --config.schedule.steps"
        )
    return steps


def _stage_ends(config, records, batches):
    """Epochs at which each stage ends; of the last, where the run's length is given in epochs."""
    count, epochs = len(batches), config.schedule.epochs
    if config.schedule.steps:  # so many updates, spread over stages of equally many epochs
        epochs = config.schedule.steps * count / sum(records / batch for batch in batches)
    starts = list(config.stages.start_epochs) if count > 1 else []
    if not starts:
        return [epochs * (stage + 1) / count for stage in range(count - 1)] + [epochs]
    if starts[0] or starts != sorted(set(starts)):
        raise UserError(
            f"config.stages.start_epochs is {tuple(starts)}, expected ascending epochs from 0 such as "
            f"--config.stages.start_epochs='{tuple(epochs * stage // count for stage in range(count))}'"
        )
    return [*starts[1:], epochs]


def _check_lengths(config):
    lengths = stage_lengths(config)
    if len(set(lengths.values())) > 1:
        seen = ", ".join(f"config.stages.{key} has {length}" for key, length in lengths.items())
        raise UserError(f"{seen} entries: give every tuple of config.stages one entry per stage, or ()")


def _check_choices(config):
    for key, allowed in CHOICES.items():
        section, name = key.split(".")
        if section in config and config[section][name] not in allowed:
            raise UserError(
                f"config.{key} is '{config[section][name]}', expected one of {', '.join(allowed)}: "
                f"type --config.{key}={allowed[0]}"
            )
    if not 0 < config.data.crop_scale[0] <= config.data.crop_scale[1] <= 1:
        raise UserError(
            f"config.data.crop_scale is {tuple(config.data.crop_scale)}, expected two shares of the area "
            "in ascending order: type --config.data.crop_scale='(0.2, 1.0)'"
        )
    for key in ("mean", "std"):
        if len(config.data[key]) not in (0, config.data.channels):
            raise UserError(
                f"config.data.{key} has {len(config.data[key])} values for {config.data.channels} "
                f"channels: give one per channel, or () for the usual ones"
            )


def _check_size(size):
    size = tuple(size)
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"config.data.image_size is {size}, expected (height, width) such as (128, 128)")
    return size


def _check_geometry(method, size, stride, unit):
    block = method.block_size
    if block < 1 or (block % stride and stride % block) or min(block, stride) % unit:
        raise UserError(
            f"config.method.block_size is {block} pixels, expected a multiple or a divisor of the "
            f"backbone's {stride} that {unit} divides: type --config.method.block_size={stride}"
        )
    step = max(block, stride)
    if size[0] % step or size[1] % step:
        fitting = tuple(max(step, round(side / step) * step) for side in size)
        raise UserError(
            f"{size[0]}x{size[1]} pixels cannot be cut into blocks of {block} and tokens of {stride}: "
            f"type --config.data.image_size='{fitting}' or another --config.method.block_size"
        )
    return (size[0] // stride, size[1] // stride), (size[0] // block, size[1] // block)


def _check_ratio(ratio, cells, count):
    hidden = count(cells) if count else cells - int(cells * (1 - ratio))
    if not 0 < ratio <= 1 or not hidden:
        raise UserError(
            f"config.method.mask_ratio is {ratio}, which hides {hidden} of {cells} blocks: "
            "type a share between 0 and 1 such as --config.method.mask_ratio=0.75"
        )
    return hidden


def _check_groups(schedule, groups):
    parts = 2 * groups * schedule.accumulation
    if groups > 1 and schedule.batch_size % parts:
        fitting = max(1, round(schedule.batch_size / parts)) * parts
        raise UserError(
            f"a batch of {schedule.batch_size} cannot be split into {groups} groups of pairs"
            + (f" in each of {schedule.accumulation} parts" if schedule.accumulation > 1 else "")
            + f": type --config.schedule.batch_size={fitting} or another --config.method.groups"
        )


def _check_batch(schedule, devices, fsdp):
    if fsdp < 1 or devices % fsdp:
        raise UserError(
            f"config.run.mesh_fsdp is {fsdp}, which does not divide the {devices} devices that are here: "
            "type --config.run.mesh_fsdp=1"
        )
    parts = devices * schedule.accumulation
    if schedule.batch_size < 1 or schedule.accumulation < 1 or schedule.batch_size % parts:
        fitting = max(1, round(schedule.batch_size / parts)) * parts if parts > 0 else devices
        raise UserError(
            f"a batch of {schedule.batch_size} cannot be split over {devices} devices x "
            f"{schedule.accumulation} accumulation: type --config.schedule.batch_size={fitting}"
        )
