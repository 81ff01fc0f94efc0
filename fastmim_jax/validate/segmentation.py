"""Checks of a config of segmentation: the head, its backbone, and the windows of the evaluation."""

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.dense.segmenter import quarter_layers
from fastmim_jax.validate.backbone import check_backbone, check_image_size, check_kernel, check_windows
from fastmim_jax.validate.finetuning import check_size_given
from fastmim_jax.validate.names import count, flag, stage_of
from fastmim_jax.validate.training import check_batch, check_gradient_dtype
from fastmim_jax.validate.values import check_values


def check_segmentation(config: ConfigDict, classes: int, *, platform: str, devices: int) -> None:
    """Check a config of segmentation whose backbone is complete; nothing is compiled.

    Args:
      config: see `train.inherit_backbone`.
      classes: of the data.
      platform: of the devices, such as "gpu".
      devices: over all processes.

    Raises:
      UserError: a key that cannot work, with what to type.
    """
    stage = stage_of(config)
    check_values(config)
    check_size_given(config.data)
    check_kernel("model", config.model, platform)
    check_batch(stage, devices)
    check_gradient_dtype(config, "model")
    encoder = check_backbone(stage, "model")
    check_image_size(stage, encoder)
    check_windows(stage, "model", encoder)
    _check_layers(config.model, encoder)
    _check_class_weights(config.loss.class_weights, classes)
    _check_stride(config.data)


def check_data_given(config: ConfigDict) -> None:
    """Raise UserError if no data set with masks is named."""
    if not config.data.path:
        raise UserError(
            "config.data.path is not set, expected images with masks: type --config.data.path=DIR with the "
            "folders images/ and masks/ in DIR, or of ADE20K, Pascal VOC, Cityscapes or COCO"
        )


def _check_layers(model: ConfigDict, encoder: Backbone) -> None:
    layers, depth = tuple(model.head.layers), len(encoder.layer_names)
    if not layers:
        return
    if len(encoder.stage_widths) > 1:
        raise UserError(
            f"config.model.head.layers is {layers}, but '{model.backbone.name}' gives its four stages: "
            f"type {flag('model.head.layers', ())}"
        )
    if max(layers) > depth or list(layers) != sorted(layers):
        raise UserError(
            f"config.model.head.layers is {layers}, expected ascending numbers from 1 to "
            f"{count(depth, 'block')}: type {flag('model.head.layers', quarter_layers(depth))}"
        )


def _check_class_weights(weights: tuple, classes: int) -> None:
    if len(weights) not in (0, classes):
        raise UserError(
            f"config.loss.class_weights has {count(len(weights), 'number')} for "
            f"{count(classes, 'class', 'classes')}: give one per class, or "
            f"{flag('loss.class_weights', ())}"
        )
    if len(weights) and not any(weights):
        raise UserError(
            f"config.loss.class_weights are all 0, which leaves nothing to learn: type "
            f"{flag('loss.class_weights', ())}"
        )


def _check_stride(data: ConfigDict) -> None:
    stride, size = tuple(data.eval_stride), tuple(data.image_size)
    if stride and any(step > side for step, side in zip(stride, size, strict=True)):
        raise UserError(
            f"config.data.eval_stride is {stride}, which leaves gaps between windows of "
            f"{size[0]} x {size[1]} pixels: type {flag('data.eval_stride', size)} or less"
        )
