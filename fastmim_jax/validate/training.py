"""Checks that pre-training and fine-tuning share: data, batch, devices and the length of a run."""

import importlib.util
from collections.abc import Iterable, Sequence

from ml_collections import ConfigDict

from fastmim_jax.build import StoredImages
from fastmim_jax.config import LOGGERS, logger_keys
from fastmim_jax.errors import UserError
from fastmim_jax.mim.mixmim import micro_batch_split
from fastmim_jax.stages import micro_batches
from fastmim_jax.validate.names import Stage, count, flag


def check_data(data: ConfigDict) -> None:
    """Raise UserError if the statistics do not have one value per channel, or a range is not ascending."""
    if data.value_range and data.value_range[0] >= data.value_range[1]:
        raise UserError(
            f"config.data.value_range is {tuple(data.value_range)}, expected the lowest and a higher "
            f"value: type {flag('data.value_range', (0, 4095))}"
        )
    for key in ("mean", "std"):
        values = len(data[key])
        if values not in (0, data.channels):
            raise UserError(
                f"config.data.{key} has {count(values, 'value')} for {count(data.channels, 'channel')}: "
                f"give one per channel, or {flag(f'data.{key}', ())} for ImageNet's"
            )


def check_loggers(run: ConfigDict) -> None:
    """Raise UserError if there is no such logger, or its package is not installed."""
    for key in logger_keys(run.loggers):
        if key not in LOGGERS:
            names, example = ", ".join(LOGGERS), flag("run.loggers", ",".join(LOGGERS))
            raise UserError(f"config.run.loggers has '{key}'; choose from: {names} (type {example})")
        package = LOGGERS[key].package
        spec = importlib.util.find_spec(package) if package else None
        if package and (spec is None or spec.origin is None):  # a folder of that name is no package
            others = ",".join(other for other in logger_keys(run.loggers) if other != key)
            raise UserError(
                f"config.run.loggers has '{key}', which needs {package}, which is not installed: type "
                f"pip install 'fastmim_jax[{key}]', or {flag('run.loggers', others or '()')}"
            )


def check_stored_images(config: ConfigDict, stored: StoredImages) -> None:
    """Raise UserError if prepared training data, or data that is not prepared, does not fit a config.

    It has other channels, or the devices are to crop data that is not prepared or that the host augments.
    """
    if not channels_fit(config.data.channels, stored):
        raise UserError(
            f"config.data.channels is {config.data.channels}, but the prepared images have "
            f"{count(stored.channels or 0, 'channel')}: type {flag('data.channels', stored.channels)}, or "
            f"prepare them again with --channels={config.data.channels}"
        )
    _check_crop_on(config, stored)


def channels_fit(channels: int, stored: StoredImages) -> bool:
    """Return whether stored images have, or can become, so many channels: RGB and gray convert."""
    return stored.channels in (None, channels) or {stored.channels, channels} == {1, 3}


def _check_crop_on(config: ConfigDict, stored: StoredImages) -> None:
    if config.data.crop_on == "host":
        return
    host = flag("data.crop_on", "host")
    if stored.largest is None:
        raise UserError(
            "config.data.crop_on is 'device', but the size of the largest image is only known of prepared "
            f"data: type `fastmim prepare SRC DST --format=yuv420` and --config.data.path=DST, or {host}"
        )
    if "augment" in config and config.augment.magnitude:
        raise UserError(
            f"config.data.crop_on is 'device' and config.augment.magnitude is {config.augment.magnitude}, "
            f"but RandAugment needs crops on the host: type {host} or {flag('augment.magnitude', 0.0)}"
        )


def check_batch(stage: Stage, devices: int) -> None:
    """Raise UserError if the mesh does not fit the devices, or the batch not the mesh and accumulation."""
    schedule, fsdp = stage.config.schedule, stage.config.run.mesh_fsdp
    if devices % fsdp:
        raise UserError(
            f"config.run.mesh_fsdp is {fsdp}, which does not divide {count(devices, 'device')}: type "
            "--config.run.mesh_fsdp=1"
        )
    accumulation = micro_batches(schedule)
    parts = devices * accumulation
    if schedule.batch_size % parts:
        raise UserError(
            f"{stage.name('schedule.batch_size')} is {schedule.batch_size}, which cannot be split over "
            f"{count(devices, 'device')} x {count(accumulation, 'micro-batch', 'micro-batches')}: "
            + stage.typed("schedule.batch_size", _nearest_multiple(schedule.batch_size, parts))
        )


def check_gradient_dtype(config: ConfigDict, section: str) -> None:
    """Raise UserError if kernels are to be rounded to bfloat16 in a model that computes in float32.

    section: "method" or "model".
    """
    dtype = config.optimizer.gradient_dtype
    if dtype == "bfloat16" and config[section].dtype != dtype:
        raise UserError(
            f"config.optimizer.gradient_dtype is 'bfloat16' and config.{section}.dtype is "
            f"'{config[section].dtype}', expected the same or float32 gradients: type "
            f"{flag('optimizer.gradient_dtype', 'float32')}"
        )


def check_mixing_groups(stage: Stage, groups: int) -> None:
    """Raise UserError if MixMIM's groups do not split every micro-batch into pairs."""
    schedule, accumulation = stage.config.schedule, micro_batches(stage.config.schedule)
    parts = 2 * groups * accumulation
    if parts > 2 and not micro_batch_split(schedule.batch_size, groups, accumulation):
        each = f" in each of {accumulation} micro-batches" if accumulation > 1 else ""
        raise UserError(
            f"{stage.name('schedule.batch_size')} is {schedule.batch_size}, which cannot be split into "
            f"{count(groups, 'group')} of pairs{each}: "
            + stage.typed("schedule.batch_size", _nearest_multiple(schedule.batch_size, parts))
            + " or another --config.method.groups"
        )


def _nearest_multiple(number: int, factor: int) -> int:
    return max(1, round(number / factor)) * factor


def check_start_epochs(starts: Sequence[float], epochs: float, stages: int) -> None:
    """Raise UserError if the start epochs of the stages do not ascend from 0."""
    if starts and (starts[0] or list(starts) != sorted(set(starts))):
        example = tuple(epochs * stage // stages for stage in range(stages))
        raise UserError(
            f"config.stages.start_epochs is {tuple(starts)}, expected ascending epochs from 0: type "
            + flag("stages.start_epochs", example)
        )


def check_steps(steps: Sequence[int], epochs: float, records: int, batch_size: int) -> None:
    """Raise UserError if a stage has no update.

    Args:
      steps: updates of each stage.
      epochs: of the run.
      records: images in the training data.
      batch_size: of the first stage.
    """
    shortest = min(range(len(steps)), key=steps.__getitem__)
    if steps[shortest] >= 1:
        return
    if len(steps) > 1:
        raise UserError(
            f"stage {shortest + 1} of {len(steps)} has no update: raise "
            "--config.schedule.epochs, or set --config.stages.start_epochs with room between them"
        )
    raise UserError(
        f"{epochs:g} epochs of {count(records, 'record')} are less than one batch of {batch_size:,}: lower "
        "--config.schedule.batch_size or set --config.schedule.steps"
    )


def check_no_decay(no_decay: Iterable[str], names: Iterable[str]) -> None:
    """Raise UserError if `config.optimizer.no_decay` has a name that no parameter ends in.

    names: last parts of the parameters' paths.
    """
    names = sorted(set(names))
    missing = sorted(set(no_decay).difference(names))
    if missing:
        raise UserError(
            f"config.optimizer.no_decay has {', '.join(missing)}, but no parameter has that name; choose "
            f"from: {', '.join(names)} (type {flag('optimizer.no_decay', (names[0],))})"
        )
