"""The config of semantic segmentation: every key with its default and its unit, as in config.py."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fastmim_jax.config import (
    backbone_section,
    compute_section,
    data_section,
    optimizer_section,
    run_section,
    schedule_section,
)

# Keys of the images that segmentation lacks: it scales, crops and mirrors images and masks together.
WITHOUT = ("crop_scale", "crop_ratio", "crop_on", "cache")


def segment_config() -> ConfigDict:
    """Return the config of segmentation, by default UPerNet as published with FastMIM's ViT-B/16."""
    config = ConfigDict()
    config.seed = 0  # of new parameters, augmentation, drop path, dropout and the order of the images
    # Warm start: a converted checkpoint, the work directory of a run, or one checkpoint in it.
    config.init = ""  # "": all parameters are initialised randomly
    config.data = _masked_data_section()

    config.model = ConfigDict()
    config.model.backbone = backbone_section(name="")  # "": name and unset sizes are those of config.init
    # (rows, columns) of the sine-cosine table that is resampled; unset: the grid of config.init
    config.model.backbone.position_grid = placeholder(tuple)
    config.model.backbone.drop_path = 0.1
    config.model.head = ConfigDict()
    config.model.head.name = "upernet"  # "upernet", or "fpn" (semantic FPN), which is lighter
    config.model.head.channels = 512  # of every level of the pyramid
    # ViT: numbers, from 1, of the four blocks whose outputs the head takes; (): the ends of the quarters
    config.model.head.layers = ()
    config.model.head.dropout = 0.1  # probability with which a channel before the classifier is dropped
    config.model.head.auxiliary_channels = 256  # of the auxiliary FCN, for training; 0: none
    config.model.head.auxiliary_input = 3  # number, from 1, of the grid that it takes, the finest first
    config.model.classes = placeholder(int)  # unset: as many as the data has
    config.model.update(compute_section())

    config.loss = ConfigDict()
    config.loss.auxiliary_weight = 0.4  # of the auxiliary head's loss; that of the head is 1
    config.loss.class_weights = ()  # a weight per class; (): all alike

    config.optimizer = optimizer_section(base_lr=4.8e-3, min_base_lr=0.0, betas=(0.9, 0.999))
    config.optimizer.layer_decay = 0.75  # learning rate of a block divided by that of the next block
    config.optimizer.official = False  # parameter groups as in the published code, oddities included
    config.optimizer.ema_decay = 0.0  # decay of the parameters' moving average, which is evaluated; 0: none
    config.schedule = schedule_section(batch_size=16, epochs=127.0, warmup_epochs=1.2)
    config.schedule.shape = "poly"
    config.run = run_section()
    config.run.eval_epochs = 10.0  # epochs between evaluations; 0: only after the last step
    # Early stopping: epochs without a better mIoU after which the run ends; 0: never.
    config.run.patience_epochs = 0.0
    config.run.pictures = 8  # evaluation images that are drawn with their prediction; 0: none
    # Images that the colours of the colour-only baseline are learned from, at most; 0: no baseline.
    config.run.baseline_images = 500
    return config


def _masked_data_section() -> ConfigDict:
    data = data_section(image_size=(512, 512), crop_scale=(1.0, 1.0))
    for key in WITHOUT:
        del data[key]
    data.path = ""  # images/ and masks/, ADEChallengeData2016, VOCdevkit/VOC2012, Cityscapes or COCO
    data.kind = "auto"  # layout of the masks: "folder", "ade20k", "voc", "cityscapes" or "coco"; or "auto"
    data.legend = ""  # a file with the names and colours of the classes, for "folder"
    data.scale = (0.5, 2.0)  # (least, largest) random factor of an image that covers the crop
    data.max_class_share = 0.75  # of a crop that one class may have before another crop is drawn
    # Strength of random changes of brightness, contrast, saturation and hue; 1: as published, 0: none.
    data.photometric_distortion = 1.0
    data.eval_path = ""  # data set to evaluate on; "": data.path
    data.eval_split = ""  # "": its val (valid, validation) or test split
    # "slide": windows of the crop's size, averaged where they overlap; "whole": the image shrunk into one
    data.eval_mode = "slide"
    data.eval_resize = placeholder(int)  # "slide": short side of an image in pixels; unset: the crop's
    # "slide": (rows, columns) in pixels from window to window; (): two thirds of the crop, as published
    data.eval_stride = ()
    return data
