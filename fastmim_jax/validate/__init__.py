"""The one place that judges a config: every refusal says what was seen, what was expected, what to type.

`check_values` reads each key by itself; `check_pretraining`, `check_finetuning` and `check_segmentation`
read the keys together, with the backbone that they name. Checks that need the data or the parameters are
called where these are known. Flags are those of the mode: `--config.method.*` in pre-training,
`--config.model.*` in the others.
"""

from fastmim_jax.validate.backbone import check_kernel
from fastmim_jax.validate.finetuning import check_classes, check_finetuning, check_start
from fastmim_jax.validate.pretraining import check_pretraining
from fastmim_jax.validate.segmentation import check_data_given, check_segmentation
from fastmim_jax.validate.supervised import check_size_given
from fastmim_jax.validate.training import (
    channels_fit,
    check_no_decay,
    check_steps,
    check_stored_images,
)
from fastmim_jax.validate.values import check_values

__all__ = [
    "channels_fit",
    "check_classes",
    "check_data_given",
    "check_finetuning",
    "check_kernel",
    "check_no_decay",
    "check_pretraining",
    "check_segmentation",
    "check_size_given",
    "check_start",
    "check_steps",
    "check_stored_images",
    "check_values",
]
