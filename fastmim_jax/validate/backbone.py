"""Checks of a backbone: its name, its sizes, and how it fits images and batches.

`section` is "method" in pre-training and "model" in fine-tuning.
"""

import difflib
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from fastmim_jax.build import create_backbone
from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.pyramid import STAGES
from fastmim_jax.models.zoo import ZOO, create_model
from fastmim_jax.stages import micro_batches
from fastmim_jax.validate.names import Stage, count, flag

SINCOS_DIVISOR = 4  # sine and cosine, of rows and of columns


def check_backbone(stage: Stage, section: str) -> Backbone:
    """Check the backbone of a section and return it.

    Raises:
      UserError: an unknown name, a size that it lacks or that does not fit the others, the image or batch.
    """
    config = stage.config[section]
    _check_name(config.backbone.name, section)
    _check_sizes(stage, section)
    encoder = create_backbone(config)
    _check_heads(encoder, section)
    _check_positions(encoder, section)
    if config.kernel == "cudnn" and not encoder.supports_cudnn:
        raise UserError(
            f"config.{section}.kernel is cudnn, which cannot learn relative positions: type "
            f"--config.{section}.kernel=xla"
        )
    _check_norm_groups(stage, section, encoder)
    return encoder


def _check_name(name: str, section: str) -> None:
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.5) or sorted(ZOO)
        raise UserError(
            f"config.{section}.backbone.name is {name!r}; choose from: {', '.join(close)} (type "
            f"--config.{section}.backbone.name={close[0]})"
        )


def _check_sizes(stage: Stage, section: str) -> None:
    """Every key that is set belongs to the backbone and has as many numbers as it has stages."""
    backbone = stage.config[section].backbone
    for key, value in backbone.items():
        if key == "name" or value is None:
            continue
        try:
            create_model(backbone.name, **{key: value})
        except (UserError, ValueError) as error:
            change = stage.name(f"{section}.backbone.{key}")
            raise UserError(f"{error}: change or remove --{change.split('[')[0]}") from error
    if backbone.windows is not None and len(backbone.windows) != STAGES:
        raise UserError(
            f"config.{section}.backbone.windows is {tuple(backbone.windows)}, expected {STAGES} numbers: "
            "type " + flag(f"{section}.backbone.windows", (14, 14, 14, 7))
        )


def _check_heads(encoder: Backbone, section: str) -> None:
    heads, channels = encoder.stage_heads, encoder.stage_widths
    if not heads:
        return
    fitting = tuple(
        max(divisor for divisor in range(1, n + 1) if width % divisor == 0)
        for n, width in zip(heads, channels, strict=True)
    )
    if fitting != heads:
        seen, wide, example = (x if len(heads) > 1 else x[0] for x in (heads, channels, fitting))
        raise UserError(
            f"config.{section}.backbone.heads is {seen}, which does not divide {wide} channels: type "
            + flag(f"{section}.backbone.heads", example)
        )


def _check_positions(encoder: Backbone, section: str) -> None:
    if encoder.class_tokens > 1 and not encoder.supports_token_dropping:
        raise UserError(
            f"config.{section}.backbone.class_tokens is {encoder.class_tokens}, but relative positions "
            f"are of one cls token: type --config.{section}.backbone.class_tokens=1, or "
            f"--config.{section}.backbone.relative_positions=none"
        )
    if encoder.class_tokens > 1 and not encoder.has_cls_token:
        raise UserError(
            f"config.{section}.backbone.class_tokens is {encoder.class_tokens} and class_token False: type "
            f"--config.{section}.backbone.class_tokens=1 or --config.{section}.backbone.class_token=True"
        )
    if encoder.positions != "none":
        check_sincos_width(encoder.stage_widths[0], f"{section}.backbone.width")


def check_sincos_width(width: int, key: str) -> None:
    """Raise UserError if a width cannot have sine-cosine positions, see `models.layers`."""
    if width % SINCOS_DIVISOR:
        raise UserError(
            f"config.{key} is {width}, expected a multiple of {SINCOS_DIVISOR} for sine-cosine positions: "
            "type " + flag(key, max(1, round(width / SINCOS_DIVISOR)) * SINCOS_DIVISOR)
        )


def _check_norm_groups(stage: Stage, section: str, encoder: Backbone) -> None:
    groups, schedule = encoder.norm_groups, stage.config.schedule
    images = schedule.batch_size // micro_batches(schedule)
    if images % groups:
        raise UserError(
            f"config.{section}.backbone.norm_groups is {groups}, which does not divide "
            f"{count(images, 'image')} of a micro-batch: type --config.{section}.backbone.norm_groups=1 or "
            "another --config.schedule.batch_size"
        )


def check_image_size(stage: Stage, encoder: Backbone) -> None:
    """Raise UserError if an image cannot be cut into the tokens and windows of a backbone."""
    size, stride = stage.config.data.image_size, encoder.stride
    if any(side % stride for side in size):
        raise UserError(
            f"{stage.name('data.image_size')} is {size[0]}x{size[1]}, which cannot be cut into tokens of "
            f"{stride} pixels: {stage.typed('data.image_size', fitting_size(size, stride))}"
        )


def fitting_size(size: tuple[int, int], step: int) -> tuple[int, int]:
    """Return the multiples of `step` nearest to an image's sides."""
    height, width = (max(step, round(side / step) * step) for side in size)
    return height, width


def check_windows(stage: Stage, section: str, encoder: Backbone) -> None:
    """Raise UserError if the windows of a Swin or MixMIM backbone do not divide its grids."""
    if encoder.window_field is None:
        return
    key = f"{section}.backbone.{encoder.window_field}"
    for index in range(STAGES):
        cell = encoder.embed_stride * 2**index
        grid = tuple(side // cell for side in stage.config.data.image_size)
        options = encoder.window_options(index)
        window = options["window"] or _chosen(stage, options["default_window"], grid)
        window = (window, window) if isinstance(window, int) else tuple(window)
        if any(side % min(side, part) for side, part in zip(grid, window, strict=True)):
            name = stage.name(key)
            raise UserError(
                f"{name} is {window[0]}, which does not divide the {grid[0]} x {grid[1]} cells of backbone "
                f"stage {index + 1}: give --{name.split('[')[0]} a side that does, or leave it unset"
            )


def _chosen(stage: Stage, choose: Callable[[int], int], grid: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(map(choose, grid))
    except (UserError, ValueError) as error:
        size = stage.config.data.image_size
        raise UserError(
            f"{stage.name('data.image_size')} is {size[0]}x{size[1]}: {error}; type another "
            f"--{stage.name('data.image_size').split('[')[0]}"
        ) from error


def check_kernel(section: str, compute: ConfigDict, platform: str, workdir: Path | None = None) -> None:
    """Raise UserError if the attention kernel does not run on a platform ("cpu", "gpu" or "tpu").

    workdir: of a saved run, whose config is not set by flags; None for the config of a command.
    """
    if compute.kernel in ("cudnn", "pallas") and (platform != "gpu" or compute.dtype != "bfloat16"):
        change = f"type --config.{section}.kernel=xla"
        if workdir is not None:
            change = f'set "kernel" to "xla" in {workdir / "config.json"}'
        raise UserError(
            f"config.{section}.kernel is {compute.kernel}, which needs an NVIDIA GPU and bfloat16, not "
            f"{platform} and {compute.dtype}: {change}"
        )
