"""MAE (arXiv 2111.06377): three quarters of the patches masked, only the others encoded, 224 px.

    fastmim pretrain --config=configs/mae.py:vit_b16 --config.data.path=DIR --workdir=runs/mae_vit_b16

variant   recipe                                              fine-tuned, as published (1600 epochs)
vit_b16   800 epochs, batch 4096, lr 1.5e-4 per 256           83.6 %
vit_l16   as vit_b16                                          85.9 % (85.5 % after 800 epochs)
vit_h14   as vit_b16                                          86.9 %
vit_ti16, vit_s16   as vit_b16                                not published
vit_b16_green       ColorMAE (arXiv 2407.13036): masks from   83.6 % (800 epochs), 83.8 %
                    green noise, 800 epochs
vit_b16_mff         MFF (arXiv 2308.00261): six layers are    83.7 % (800 epochs), 83.0 % (300)
                    fused before the decoder, 800 epochs
vit_h16_pixio       Pixio (arXiv 2512.15715) on ImageNet:     not published; its 2 billion web images give
                    256 px, 8 cls tokens, a decoder of 32     50.2 mIoU on ADE20K with a frozen encoder
                    blocks, masked squares of 4 x 4 patches,  and a linear layer (MAE: 35.2)
                    642,000 steps of 8,192 images

Normalised pixels are predicted by a decoder of 8 blocks, 512 wide. `--config.method.target=hog` predicts
HOG (patches of 8 or 16 pixels), `--config.method.partial.throw_ratio=0.5` makes it PR-MIM (pr_mim.py).
"""

from fastmim_jax.config import check_variant, pretrain_config

VARIANTS = {
    "vit_b16": {},
    "vit_ti16": {"method.backbone.name": "vit_ti16"},
    "vit_s16": {"method.backbone.name": "vit_s16"},
    "vit_l16": {"method.backbone.name": "vit_l16"},
    "vit_h14": {"method.backbone.name": "vit_h14", "method.block_size": 14},
    "vit_b16_green": {"method.mask_noise": "green"},
    "vit_b16_mff": {"method.fuse_layers": (1, 3, 5, 7, 9, 12)},
    "vit_h16_pixio": {
        "data.image_size": (256, 256),
        "method.backbone.name": "vit_h16",
        "method.backbone.positions": "learned",
        "method.backbone.class_tokens": 8,
        "method.backbone.drop_path": 0.4,
        "method.decoder.depth": 32,
        "method.mask_grid": 4,
        "optimizer.base_lr": 2.5e-5,
        "schedule.batch_size": 8192,
        "schedule.steps": 1605 * 400,
        "schedule.warmup_epochs": 40.0 * 1605 * 8192 / 1_281_167,
    },
}


def get_config(variant="vit_b16"):
    """Return the config of a variant."""
    check_variant("configs/mae.py", variant, VARIANTS)
    config = pretrain_config()
    config.data.image_size = (224, 224)
    config.method.update(name="mae", target="pixel", block_size=16, mask_ratio=0.75)
    config.method.decoder.update(width=512, depth=8, heads=16)
    config.schedule.update(batch_size=4096, epochs=800.0, warmup_epochs=40.0)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
