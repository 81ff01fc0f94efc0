"""Own images: a backbone, and a schedule that follows from how many images there are.

    fastmim pretrain --config=configs/own.py:tiny --config.data.path=DIR --workdir=runs/mine

variant      about             backbone, image size, patches or cells               method  for
tiny         1,000 images      ViT 128 wide, 6 blocks, 64 px, patches of 8          MAE     a laptop
small        10,000 images     ViT-S, 128 px, patches of 16                         MAE     one GPU
base         100,000 images    ViT-B, 224 px, patches of 16                         MAE     GPUs
swin_tiny    1,000 images      Swin 32 wide, blocks 1, 1, 2, 1, 64 px, cells of 32  MixMIM  a laptop
swin_small   10,000 images     Swin-T, 128 px, cells of 32                          MixMIM  one GPU
swin_base    100,000 images    Swin-B, 224 px, cells of 32                          MixMIM  GPUs

Batch size, epochs, warm-up and learning rate are "auto": the run chooses them from the number of images and
prints each with its reason (fastmim_jax/auto_schedule.py). Any of them may be set, for example
--config.schedule.epochs=200. MAE and MixMIM learn most in few updates (experiments/transfer); other
methods have the same schedule from Python: fastmim_jax.pretrain(..., method="fastmim", model="vit_s16").
"""

from fastmim_jax.auto_schedule import set_auto
from fastmim_jax.config import check_variant, pretrain_config

LAPTOP = {"method.dtype": "float32", "run.checkpoint_every": 500, "run.picture_every": 500}
MAE = {"method.name": "mae", "method.target": "pixel"}
MIXMIM = {
    "method.name": "mixmim",
    "method.target": "pixel",
    "method.block_size": 32,
    "method.mask_ratio": 0.5,
    "method.groups": 8,
    "method.decoder.epsilon": 1e-5,
}
VARIANTS = {
    "tiny": {
        **MAE,
        **LAPTOP,
        "data.image_size": (64, 64),
        "method.block_size": 8,
        "method.backbone.name": "vit_ti8",
        "method.backbone.width": 128,
        "method.backbone.depth": 6,
        "method.backbone.heads": 4,
        "method.decoder.width": 64,
        "method.decoder.depth": 2,
    },
    "small": {
        **MAE,
        "data.image_size": (128, 128),
        "method.backbone.name": "vit_s16",
        "method.decoder.width": 256,
        "method.decoder.depth": 4,
    },
    "base": {
        **MAE,
        "data.image_size": (224, 224),
        "method.backbone.name": "vit_b16",
        "method.decoder.width": 512,
        "method.decoder.depth": 8,
        "method.decoder.heads": 16,
    },
    "swin_tiny": {
        **MIXMIM,
        **LAPTOP,
        "data.image_size": (64, 64),
        "method.backbone.name": "swin_t",
        "method.backbone.width": 32,
        "method.backbone.depths": (1, 1, 2, 1),
        "method.backbone.heads": (1, 2, 4, 8),
        "method.decoder.width": 64,
        "method.decoder.depth": 2,
    },
    "swin_small": {
        **MIXMIM,
        "data.image_size": (128, 128),
        "method.backbone.name": "swin_t",
        "method.decoder.width": 256,
        "method.decoder.depth": 4,
    },
    "swin_base": {
        **MIXMIM,
        "data.image_size": (224, 224),
        "method.backbone.name": "swin_b",
        "method.decoder.width": 512,
        "method.decoder.depth": 8,
    },
}


def get_config(variant="tiny"):
    """Return the config of a variant."""
    check_variant("configs/own.py", variant, VARIANTS)
    config = pretrain_config()
    config.update_from_flattened_dict(VARIANTS[variant])
    set_auto(config)
    return config
