"""MixMIM / MixMAE (arXiv 2205.13137): encode mixtures of two images and reconstruct both, at 224 px.

    fastmim pretrain --config=configs/mixmim.py:base --config.data.path=DIR --workdir=runs/mixmim_base

variant    recipe                                                     fine-tuned, as published
base       600 epochs, batch 2048 in 16 groups, lr 1.5e-4 per 256     85.1 % at 224 px, 86.3 % at 384
base_300   300 epochs, decoder norms with 1e-6 (mmpretrain's recipe)  84.6 % at 224 px
large      as base                                                    85.9 % at 224 px, 86.9 % at 384
huge       as base                                                    not published
base_hog   as base, HOG instead of pixels                             not published
swin_b     as base, over a shifted Swin with the windows of FastMIM   not published
tiny       the bundled photos at 96 px, minutes on a laptop           a first look, no recipe

Half of the 32-px cells of every mixture come from the partner image. The batch has 16 groups, as the
published training had 16 GPUs: each group has one mask, and partners are in the same group. The groups do
not depend on the devices; if the number of devices divides 16, no image moves between devices. Image sides
must be multiples of 32.
"""

from fastmim_jax.config import check_variant, pretrain_config

VARIANTS = {
    "base": {},
    "base_300": {"schedule.epochs": 300.0, "method.decoder.epsilon": 1e-6},
    "large": {"method.backbone.name": "mixmim_l"},
    "huge": {"method.backbone.name": "mixmim_h"},
    "base_hog": {"method.target": "hog"},
    "swin_b": {"method.backbone.name": "swin_b"},
    "tiny": {
        "data.image_size": (96, 96),
        "data.eval_split": "test",
        "method.dtype": "float32",
        "method.groups": 4,
        "method.backbone.width": 32,
        "method.backbone.depths": (1, 1, 2, 1),
        "method.backbone.heads": (1, 2, 4, 8),
        "method.decoder.width": 64,
        "method.decoder.depth": 2,
        "optimizer.base_lr": 8e-3,
        "schedule.batch_size": 64,
        "schedule.steps": 500,
        "schedule.warmup_epochs": 1.0,
        "run.eval_every": 250,
        "run.picture_every": 250,
    },
}


def get_config(variant="base"):
    """Return the config of a variant."""
    check_variant("configs/mixmim.py", variant, VARIANTS)
    config = pretrain_config()
    config.data.image_size = (224, 224)
    config.method.update(name="mixmim", target="pixel", block_size=32, mask_ratio=0.5, groups=16)
    config.method.backbone.name = "mixmim_b"
    config.method.decoder.update(width=512, depth=8, epsilon=1e-5)
    config.schedule.update(batch_size=2048, epochs=600.0, warmup_epochs=40.0)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
