"""SimMIM (arXiv 2111.09886): mask tokens after the patch embedding, one linear layer predicts pixels.

    fastmim pretrain --config=configs/simmim.py:swin_b --config.data.path=DIR --workdir=runs/simmim_swin_b

variant  recipe                                                     fine-tuned at 224 px, as published
swin_b   192 px, windows of 6 cells, 800 epochs                     84.0 %
swin_l   192 px, windows of 12 cells, 800 epochs                    85.4 %
vit_b16  224 px, shared relative positions, layer scale, 800 epochs 83.8 %
vit_ti16 as vit_b16, without drop path                              not published

60 % of every image's 32-px blocks are masked, and the loss is the mean absolute error of their normalised
pixels. The learning rate is 1e-4 for 512 images, reached in 10 epochs from 5e-7, and a tenth of it from
epoch 700 on. As in the published code, Swin's mask token and ViT's cls token have no weight decay, and the
ViT recipe pre-trains with drop path (0.1).
"""

from fastmim_jax.config import check_variant, pretrain_config

VIT = {
    "data.image_size": (224, 224),
    "method.backbone.positions": "none",
    "method.backbone.relative_positions": "shared",
    "method.backbone.layer_scale": 0.1,
    "method.backbone.drop_path": 0.1,
    "optimizer.no_decay": ("cls_token",),
}
VARIANTS = {
    "swin_b": {},
    "swin_l": {"method.backbone.name": "swin_l", "method.backbone.window": 12},
    "vit_b16": {**VIT, "method.backbone.name": "vit_b16"},
    "vit_ti16": {**VIT, "method.backbone.name": "vit_ti16", "method.backbone.drop_path": 0.0},
}


def get_config(variant="swin_b"):
    """Return the config of a variant."""
    check_variant("configs/simmim.py", variant, VARIANTS)
    config = pretrain_config()
    config.data.update(image_size=(192, 192), crop_scale=(0.67, 1.0))
    config.method.update(name="simmim", target="pixel", normalize_target=False)
    config.method.update(block_size=32, mask_ratio=0.6)
    config.method.backbone.name = "swin_b"
    config.optimizer.update(base_lr=5e-5, warmup_base_lr=2.5e-7, betas=(0.9, 0.999), clip_norm=5.0)
    config.optimizer.no_decay = ("mask_token",)
    config.schedule.update(batch_size=2048, epochs=800.0, warmup_epochs=10.0)
    config.schedule.update(shape="step", decay_epochs=700.0)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
