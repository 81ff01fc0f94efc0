"""Checks that fine-tuning and segmentation share: the backbone, its images, the batch and the devices."""

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.validate.backbone import check_backbone, check_image_size, check_kernel, check_windows
from fastmim_jax.validate.names import flag, stage_of
from fastmim_jax.validate.training import check_batch, check_gradient_dtype
from fastmim_jax.validate.values import check_values


def check_supervised(config: ConfigDict, *, platform: str, devices: int) -> Backbone:
    """Check the keys that fine-tuning and segmentation share, and return the backbone of a config.

    Args:
      config: with a complete backbone, see `train.inherit_backbone`.
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
    return encoder


def check_size_given(data: ConfigDict) -> None:
    """Raise UserError if the image size was to be that of pre-training, and there is none."""
    if not data.image_size:
        raise UserError(
            "config.data.image_size is (), and config.init, whose size it would be, is unset: type "
            f"{flag('data.image_size', (64, 64))} or --config.init=WORKDIR"
        )
