r"""Fine-tuning a pre-trained backbone as a classifier, by the published recipes.

    fastmim finetune --config=configs/finetune.py --config.init=runs/mine \
        --config.data.path=DIR --workdir=runs/tuned

DIR has one folder per class, or train/ and val/ (or test/) with one folder per class each; or give the name
of a TFDS data set.

variant            recipe: base learning rate, layer decay, drop path      ImageNet-1k top-1, as published
auto               the backbone of config.init, at MAE's recipe
vit_b16            FastMIM: 6e-4, .7, .1, 100 epochs of batch 1024          83.8 % (128 px, 800 epochs)
vit_b16_official   as vit_b16, with the 12 heads that the published code    83.8 %, most likely
                   gives a checkpoint pre-trained with 6
swin_b             FastMIM: 1e-3, .8, .1, 100 epochs                        84.1 % (128 px, 400 epochs)
pvt_v2_b2, cmt_s   as swin_b; FastMIM's own commands are not published      82.5 %, 83.9 % (800 epochs)
mixmim_b           MixMIM: 5e-4, .7, .1, 100 epochs                         85.1 % (600 epochs)
mixmim_l           as mixmim_b; its own recipe is not published             85.9 % (600 epochs)
mixmim_b_384,      as mixmim_b at 384 px, evaluated without a border;       86.3 %, 86.9 %
mixmim_l_384       their own recipe is not published
mae_vit_b16        MAE: 5e-4, .65, .1, 100 epochs                           83.6 % (4 seeds: 83.57 +- .08)
mae_vit_l16        MAE: 1e-3, .75, .2, 50 epochs                            85.9 % (4 seeds: 85.87 +- .07)
mae_vit_h14        MAE: 1e-3, .75, .3, 50 epochs                            86.9 %
simmim_swin_b      SimMIM: 6.25e-4, .8, .1, 100 epochs of batch 2048,       84.0 % (192 px, 800 epochs)
                   20 of warm-up, gradients clipped at 5
simmim_swin_l      as simmim_swin_b: .7, .2, windows of 14 cells            85.4 % (192 px, 800 epochs)
simmim_vit_b16     as simmim_swin_b: .65, .1, a bias table in every block   83.8 % (800 epochs)
own                the backbone of config.init; batch, epochs, warm-up and     none: for your own images
                   learning rate from the number of images, images as
                   large as in pre-training, less augmentation
quickstart         the bundled photos at 48 px, 12 classes                  a first look, one minute

All variants have RandAugment (magnitude 9 of 10, two of 15 operations), random erasing, mixup or CutMix,
and label smoothing, as published. For another size of a backbone, take the variant of its family and add
`--config.model.backbone.name=vit_l16`. Use fewer epochs and a smaller `--config.schedule.batch_size` for
smaller data sets; the learning rate follows it. `--config.optimizer.official=True` groups parameters as the
published code does: weight decay on the position tables of Swin, PVT and CMT, and the learning rate of the
last block for MixMIM's head.
"""

from fastmim_jax.auto_schedule import set_auto
from fastmim_jax.config import check_variant, finetune_config


def recipe(backbone, base_lr, layer_decay, drop_path=0.1, **more):
    """Flat keys of a recipe; double underscores in keywords stand for dots."""
    return {
        "model.backbone.name": backbone,
        "model.backbone.drop_path": drop_path,
        "optimizer.base_lr": base_lr,
        "optimizer.layer_decay": layer_decay,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


LEARNED = {"model__backbone__positions": "learned"}  # as in all published fine-tuning of a ViT
EIGHT = {"augment__mix_groups": 8}  # the published training mixed on each of 8 GPUs
AT_384 = {"data__image_size": (384, 384), "data__eval_resize": 384}
MAE = {"augment__mix_groups": 32, **LEARNED}
SIMMIM = {
    "augment__mix_groups": 16,
    "optimizer__min_base_lr": 1.25e-7,
    "optimizer__warmup_base_lr": 1.25e-7,
    "optimizer__clip_norm": 5.0,
    "schedule__batch_size": 2048,
    "schedule__warmup_epochs": 20.0,
}
SIMMIM_VIT = {
    "model__backbone__positions": "none",
    "model__backbone__relative_positions": "own",
    "model__backbone__layer_scale": 0.1,
}
SIMMIM_SWIN = {**SIMMIM, "model__pooling": "pool"}  # with the pre-trained last norm
VARIANTS = {
    "auto": {},
    "vit_b16": recipe("vit_b16", 6e-4, 0.7, **EIGHT, **LEARNED),
    "vit_b16_official": recipe("vit_b16", 6e-4, 0.7, **EIGHT, **LEARNED, model__backbone__heads=12),
    "swin_b": recipe("swin_b", 1e-3, 0.8, **EIGHT),
    "pvt_v2_b2": recipe("pvt_v2_b2", 1e-3, 0.8, **EIGHT),
    "cmt_s": recipe("cmt_s", 1e-3, 0.8, **EIGHT),
    "mixmim_b": recipe("mixmim_b", 5e-4, 0.7, **EIGHT),
    "mixmim_l": recipe("mixmim_l", 5e-4, 0.7, **EIGHT),
    "mixmim_b_384": recipe("mixmim_b", 5e-4, 0.7, **EIGHT, **AT_384),
    "mixmim_l_384": recipe("mixmim_l", 5e-4, 0.7, **EIGHT, **AT_384),
    "mae_vit_b16": recipe("vit_b16", 5e-4, 0.65, **MAE),
    "mae_vit_l16": recipe("vit_l16", 1e-3, 0.75, 0.2, **MAE, schedule__epochs=50.0),
    "mae_vit_h14": recipe("vit_h14", 1e-3, 0.75, 0.3, **MAE, schedule__epochs=50.0),
    "simmim_swin_b": recipe("swin_b", 6.25e-4, 0.8, **SIMMIM_SWIN),
    "simmim_swin_l": recipe("swin_l", 6.25e-4, 0.7, 0.2, **SIMMIM_SWIN, model__backbone__window=14),
    "simmim_vit_b16": recipe("vit_b16", 6.25e-4, 0.65, **SIMMIM, **SIMMIM_VIT),
    "own": {
        "data.image_size": (),
        "data.crop_scale": (0.4, 1.0),
        "augment.magnitude": 5.0,
        "augment.random_erasing": 0.1,
        "augment.mix_probability": 0.5,
        "optimizer.layer_decay": 0.75,
    },
    "quickstart": {
        "data.image_size": (48, 48),
        "data.crop_scale": (0.4, 1.0),
        "model.dtype": "float32",
        "augment.magnitude": 5.0,
        "optimizer.base_lr": 8e-3,
        "schedule.batch_size": 64,
        "schedule.epochs": 4.0,
        "schedule.warmup_epochs": 0.5,
    },
}


def get_config(variant="auto"):
    """Return the config of a variant."""
    check_variant("configs/finetune.py", variant, VARIANTS)
    config = finetune_config()
    config.update_from_flattened_dict(VARIANTS[variant])
    if variant == "own":
        set_auto(config)
    return config
