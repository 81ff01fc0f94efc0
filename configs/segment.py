r"""Semantic segmentation: a pre-trained backbone with UPerNet, fine-tuned on images with masks.

    fastmim segment --config=configs/segment.py:vit_b16 --config.init=runs/mine \
        --config.data.path=DIR --workdir=runs/segmented

DIR has images/ and masks/, each with train/ and val/ inside, where a mask is a PNG with the name of its
image whose values are classes (255: no label); or it is ADEChallengeData2016, VOCdevkit/VOC2012, Cityscapes
or COCO. docs/dense.md describes the formats.

variant      recipe                                                               ADE20K mIoU, as published
auto         the backbone of config.init; UPerNet of 512 channels, crops of 512 px
vit_b16      FastMIM: rate 3e-4, layer decay .75, drop path .1, UPerNet of 768    49.5 (fine-tuned first)
             channels on blocks 2, 4, 10 and 12
mae_vit_b16  MAE, as in mmsegmentation: 1e-4, .65, .1, blocks 4, 6, 8 and 12      48.1 (MAE, 1,600 epochs)
swin_b       Swin: 6e-5, no layer decay, .3; windows of 8 cells, as 7 (with       48.1 (supervised)
             padding, as published) do not divide the grid
own          the backbone of config.init at its image size, semantic FPN,         none: for your own images
             2,000 updates of 16 crops
tiny         as own for a CPU: crops of 64 px, 64 channels, 600 updates, colours  none
             as they are

The recipes of ADE20K train 160,000 updates of 16 crops: 126.7 epochs of its 20,210 images. Rates are for a
batch of 16 and follow the linear rule. The published code takes the last block of a ViT before its norm.
None of the numbers has been repeated here yet.
"""

from fastmim_jax.config import check_variant
from fastmim_jax.segment_config import segment_config

BATCH, RULE = 16, 256  # of the published rates; images that base rates are for


def recipe(backbone, rate, layer_decay, drop_path=0.1, **head):
    """Flat keys of a published recipe; head: keys of `model.head`."""
    return {
        "model.backbone.name": backbone,
        "model.backbone.drop_path": drop_path,
        "optimizer.base_lr": rate * RULE / BATCH,
        "optimizer.layer_decay": layer_decay,
        **{f"model.head.{key}": value for key, value in head.items()},
    }


def short(updates):
    """Keys of a run of so few updates on own images."""
    return {
        "schedule.steps": updates,
        "schedule.warmup_epochs": 1.0,
        "schedule.shape": "cosine",
        "optimizer.base_lr": 1.6e-2,
        "data.max_class_share": 1.0,
        "run.checkpoint_every": 200,
        "run.eval_epochs": 10.0,
    }


VARIANTS = {
    "auto": {},
    "vit_b16": {
        **recipe("vit_b16", 3e-4, 0.75, channels=768, layers=(2, 4, 10, 12), auxiliary_input=4),
        "model.backbone.positions": "learned",
        "model.backbone.relative_positions": "own",
        "model.backbone.layer_scale": 1.0,
    },
    "mae_vit_b16": {
        **recipe("vit_b16", 1e-4, 0.65, channels=768, layers=(4, 6, 8, 12)),
        "model.backbone.positions": "learned",
    },
    "swin_b": {
        **recipe("swin_b", 6e-5, 1.0, 0.3),
        "model.backbone.window": 8,
        "optimizer.weight_decay": 0.01,
    },
    "own": {"data.image_size": (), "model.head.name": "fpn", "model.head.channels": 256, **short(2000)},
    "tiny": {
        "data.image_size": (64, 64),
        "data.scale": (0.8, 1.5),
        "data.photometric_distortion": 0.0,
        "model.dtype": "float32",
        "model.head.name": "fpn",
        "model.head.channels": 64,
        "model.head.auxiliary_channels": 0,
        **short(600),
        "optimizer.base_lr": 3.2e-2,
    },
}


def get_config(variant="auto"):
    """Return the config of a variant."""
    check_variant("configs/segment.py", variant, VARIANTS)
    config = segment_config()
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
