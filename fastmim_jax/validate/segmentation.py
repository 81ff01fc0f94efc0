"""Checks of a config of segmentation: the head, its backbone, and the windows of the evaluation."""

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.dense.segmenter import quarter_layers
from fastmim_jax.validate.names import count, flag
from fastmim_jax.validate.supervised import check_supervised


def check_segmentation(config: ConfigDict, classes: int, *, platform: str, devices: int) -> None:
    """Check a config of segmentation for a number of classes in the data; nothing is compiled.

    The other arguments, and errors: see `check_supervised`.
    """
    encoder = check_supervised(config, platform=platform, devices=devices)
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
