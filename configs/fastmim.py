"""FastMIM (arXiv 2212.06593): HOG of hidden blocks at 128 px.

    fastmim pretrain --config=configs/fastmim.py:vit_b16 --config.data.path=DIR --workdir=runs/vit_b16

variant            what it is                                     what the paper or its code reports
vit_b16            800 epochs, batch 4096, decoder 256 x 1        83.8 % fine-tuned at 224, 608 GPU-hours
vit_b16_official   with the 6 heads that the published            (most likely what was released;
                   pre-training code builds, instead of 12        fine-tuning has 12)
vit_s16, vit_l16   the same recipe on other sizes                 nothing

The loss starts around 1 and soon falls below 0.111, that of predicting zero for nine unit-norm bins;
a model that learns goes on below the printed "mean" predictor. Smaller data sets want a smaller
`--config.schedule.batch_size`; the learning rate follows it.
"""

from fastmim_jax.config import base
from fastmim_jax.errors import UserError


def get_config(variant="vit_b16"):
    """The config of a variant."""
    if variant not in VARIANTS:
        raise UserError(f"configs/fastmim.py has no variant '{variant}': there is {', '.join(VARIANTS)}")
    config = base()
    for key, value in VARIANTS[variant].items():
        config.method.backbone[key] = value
    return config


VARIANTS = {
    "vit_b16": {"name": "vit_b16"},
    "vit_b16_official": {"name": "vit_b16", "heads": 6},
    "vit_s16": {"name": "vit_s16"},
    "vit_l16": {"name": "vit_l16"},
}
