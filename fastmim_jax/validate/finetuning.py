"""Checks of a fine-tuning config: the classifier, its start and its augmentation."""

import math

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.validate.names import count, flag
from fastmim_jax.validate.supervised import check_supervised


def check_finetuning(config: ConfigDict, *, platform: str, devices: int) -> None:
    """Check a config of fine-tuning; nothing is compiled. Arguments and errors: see `check_supervised`."""
    encoder = check_supervised(config, platform=platform, devices=devices)
    _check_pooling(config.model, encoder)
    _check_mix_groups(config)
    _check_resize(config.data)
    _check_pixel_dtype(config)


def _check_pixel_dtype(config: ConfigDict) -> None:
    dtype, magnitude = config.data.pixel_dtype, config.augment.magnitude
    if dtype in ("uint16", "float32") and magnitude:
        raise UserError(
            f"config.data.pixel_dtype is '{dtype}' and config.augment.magnitude is {magnitude}, but "
            f"RandAugment works on 8 bits: type {flag('augment.magnitude', 0.0)}, or "
            f"{flag('data.pixel_dtype', 'uint8')}"
        )


def _check_pooling(model: ConfigDict, encoder: Backbone) -> None:
    if (model.pooling or encoder.pooling) == "cls" and not encoder.has_cls_token:
        raise UserError(
            f"config.model.pooling is 'cls', but '{model.backbone.name}' has no cls token: type "
            f"--config.model.pooling={encoder.pooling}"
        )


def _check_mix_groups(config: ConfigDict) -> None:
    groups, batch = config.augment.mix_groups, config.schedule.batch_size
    if batch % groups:
        raise UserError(
            f"config.augment.mix_groups is {groups}, which does not divide a batch of {batch}: type "
            f"--config.augment.mix_groups={math.gcd(batch, groups)}"
        )


def _check_resize(data: ConfigDict) -> None:
    side = min(data.image_size)
    if data.eval_resize is not None and data.eval_resize < side:
        raise UserError(
            f"config.data.eval_resize is {data.eval_resize}, expected at least the {side} pixels that are "
            f"cropped: type --config.data.eval_resize={side}"
        )


def check_classes(config: ConfigDict, classes: int, source: object) -> None:
    """Raise UserError if `config.model.classes` is set and differs from the classes of the data."""
    if config.model.classes not in (None, classes):
        raise UserError(
            f"config.model.classes is {config.model.classes}, but {source!r} has "
            f"{count(classes, 'class', 'classes')}: leave it unset or type --config.model.classes={classes}"
        )


def check_start(config: ConfigDict, init_name: str | None) -> None:
    """Raise UserError if there is no backbone, or another one than in the checkpoint of `config.init`.

    init_name: of the checkpoint's backbone; None without a checkpoint.
    """
    name = config.model.backbone.name
    if not name and init_name is None:
        raise UserError(
            "config.model.backbone.name is unset, and so is config.init, which would name it: type "
            "--config.init=WORKDIR of a pre-training run, or --config.model.backbone.name=vit_b16"
        )
    if name and init_name not in (None, name):
        raise UserError(
            f"config.model.backbone.name is '{name}', but the checkpoint of config.init has '{init_name}': "
            f"type --config.model.backbone.name={init_name}, or another --config.init"
        )
