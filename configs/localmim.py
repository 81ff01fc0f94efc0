"""LocalMIM (arXiv 2303.05251): early layers of the encoder predict fine HOG, late ones coarse HOG.

    fastmim pretrain --config=configs/localmim.py:vit_b16 --config.data.path=DIR --workdir=runs/localmim

variant      recipe                                                        fine-tuned, as published
vit_b16      1600 epochs, batch 2048, lr 2e-4 per 256; blocks 2, 4, 10     84.0 %
             and 12 predict HOG of 4, 8, 16 and 32 px, by one decoder
             block each
vit_l16      800 epochs, batch 4096, lr 1.5e-4; blocks 2, 4, 22 and 24     85.8 % (18 bins and a bias, which
                                                                           are not offered here)
vit_s16, vit_ti16   as vit_b16                                             not published
swin_b       400 epochs, batch 2048, lr 1e-4; stages 2, 3 and 4 predict    84.1 % (18 bins; visible patches
             HOG of 8, 16 and 32 px; masked pixels get a learned colour    alone, one mask for a batch)
             and the whole image is encoded, as in FastMIM

Only the visible patches go through a ViT, as in MAE. `--config.method.target=pixel` predicts the pixels of
the same squares. With another depth, choose other `--config.method.local_layers`; the last layer is one.
"""

from fastmim_jax.config import check_variant, pretrain_config

VARIANTS = {
    "vit_b16": {},
    "vit_l16": {
        "method.backbone.name": "vit_l16",
        "method.local_layers": (2, 4, 22, 24),
        "optimizer.base_lr": 1.5e-4,
        "schedule.batch_size": 4096,
        "schedule.epochs": 800.0,
    },
    "vit_s16": {"method.backbone.name": "vit_s16"},
    "vit_ti16": {"method.backbone.name": "vit_ti16"},
    "swin_b": {
        "method.backbone.name": "swin_b",
        "method.backbone.window": 7,
        "method.block_size": 32,
        "method.local_layers": (2, 3, 4),
        "method.target_scales": (8, 16, 32),
        "method.decoder.epsilon": 1e-5,
        "optimizer.base_lr": 1e-4,
        "schedule.epochs": 400.0,
    },
}


def get_config(variant="vit_b16"):
    """Return the config of a variant."""
    check_variant("configs/localmim.py", variant, VARIANTS)
    config = pretrain_config()
    config.data.image_size = (224, 224)
    config.method.update(name="localmim", target="hog", block_size=16, mask_ratio=0.75)
    config.method.update(local_layers=(2, 4, 10, 12), target_scales=(4, 8, 16, 32))
    config.method.decoder.update(width=256, depth=1, heads=8)
    config.optimizer.base_lr = 2e-4
    config.schedule.update(batch_size=2048, epochs=1600.0, warmup_epochs=40.0)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
