"""CrossMAE (arXiv 2401.14391): MAE with a decoder of cross-attention for a third of the masked patches.

    fastmim pretrain --config=configs/crossmae.py:vit_b16 --config.data.path=DIR --workdir=runs/crossmae

variant      recipe                                              fine-tuned, as published (all predicted)
vit_b16      800 epochs, batch 4096, decoder 512 x 12            83.7 %
vit_s16      as vit_b16, decoder 256 x 12                        79.3 %
vit_l16      as vit_b16                                          85.4 %
vit_ti16     as vit_b16, decoder 192 x 12                        not published

Mask tokens attend to the visible patches alone, each decoder block to a learned sum of the encoder's layers
(`--config.method.feature_maps=last`: to its output), so that patches can be left out of the decoder at no
loss of context: here half of all are neither visible nor predicted (`--config.method.partial.throw_ratio=0`
predicts all masked ones).
"""

from fastmim_jax.config import check_variant, pretrain_config

VARIANTS = {
    "vit_b16": {},
    "vit_s16": {
        "method.backbone.name": "vit_s16",
        "method.decoder.width": 256,
        "method.decoder.heads": 8,
    },
    "vit_l16": {"method.backbone.name": "vit_l16"},
    "vit_ti16": {
        "method.backbone.name": "vit_ti16",
        "method.decoder.width": 192,
        "method.decoder.heads": 6,
    },
}


def get_config(variant="vit_b16"):
    """Return the config of a variant."""
    check_variant("configs/crossmae.py", variant, VARIANTS)
    config = pretrain_config()
    config.data.image_size = (224, 224)
    config.method.update(name="crossmae", target="pixel", block_size=16, mask_ratio=0.75)
    config.method.decoder.update(width=512, depth=12, heads=16)
    config.method.partial.update(throw_ratio=0.5, sampler="random", fill="none")
    config.schedule.update(batch_size=4096, epochs=800.0, warmup_epochs=40.0)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
