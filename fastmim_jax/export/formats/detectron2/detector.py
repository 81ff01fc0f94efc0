"""detector.py of a folder for detectron2: a LazyConfig of a published detector on the folder's weights."""

from fastmim_jax.export.formats.detection import RECIPES, describe_recipe, pixel_statistics, refuse
from fastmim_jax.export.formats.detectron2.describe import describe, recipe_of_depth
from fastmim_jax.export.formats.library import ModelSpec

WEIGHTS = "backbone.pth"
PATCH = 16  # pixels, of which ViTDet makes strides of 4, 8, 16 and 32
# Braces are doubled where they are the config's.
_CONFIG = '''"""{name}, for detectron2.

python tools/lazyconfig_train_net.py --config-file=detector.py --num-gpus=8

{source}.
"""

import os
from functools import partial

import detectron2.data.transforms as T
import torch.nn as nn
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling import {imports}
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

{model}
model.pixel_mean = {mean}
model.pixel_std = {std}
model.input_format = "RGB"

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale={low}, max_scale={high}, target_height=1024, target_width=1024),
    L(T.FixedSizeCrop)(crop_size=(1024, 1024), pad=False),
]
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.recompute_boxes = True
dataloader.train.total_batch_size = {batch}
dataloader.test.mapper.image_format = "RGB"
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=1024, max_size={longest})]

train = model_zoo.get_config("common/train.py").train
train.amp.enabled = True
train.ddp.fp16_compression = True
train.init_checkpoint = os.path.join(os.path.dirname(os.path.abspath(__file__)), "{weights}")
train.max_iter = {steps}

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones={milestones}, num_updates=train.max_iter
    ),
    warmup_length={warmup} / train.max_iter,
    warmup_factor=0.001,
)

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = {learning_rate}
optimizer.weight_decay = {weight_decay}
{optimizer}
'''
_VIT_MODEL = """model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.net = L(ViT)(
{arguments}
    norm_layer=partial(nn.LayerNorm, eps={epsilon}),
    out_feature="last_feat",
)"""
_VIT_OPTIMIZER = """optimizer.params.lr_factor_func = partial(
    get_vit_lr_decay_rate, num_layers={depth}, lr_decay_rate={layer_decay}
)
optimizer.params.overrides = {{"pos_embed": {{"weight_decay": 0.0}}}}"""
_SWIN_MODEL = """model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up = L(SwinTransformer)(
{arguments}
    norm_layer=partial(nn.LayerNorm, eps={epsilon}),
)
model.backbone.in_features = ("p0", "p1", "p2", "p3")
model.backbone.norm = "SyncBN"
model.backbone.square_pad = 1024
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.fc_dims = [1024]
model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "SyncBN\""""
_SWIN_OPTIMIZER = """optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}"""


def detector_files(spec: ModelSpec) -> dict[str, str]:
    """Return {"detector.py": a LazyConfig}.

    Raises:
      UserError: detectron2 has no such backbone, or the backbone takes no RGB images.
    """
    description, recipe = describe(spec), RECIPES[spec.encoder.family]
    if description["class"] == "ViT" and spec.encoder.patch_size != PATCH:
        refuse(
            "detectron2", f"has ViTDet for patches of {PATCH} pixels only, not of {spec.encoder.patch_size}"
        )
    mean, std = pixel_statistics(spec)
    lines = (f"    {name}={value!r}," for name, value in description["arguments"].items())
    filled = dict(arguments="\n".join(lines), epsilon=description["epsilon"])
    if description["class"] == "ViT":
        depth, imports = (
            spec.encoder.depth,
            "ViT\nfrom detectron2.modeling.backbone.vit import get_vit_lr_decay_rate",
        )
        model = _VIT_MODEL.format(**filled)
        optimizer = _VIT_OPTIMIZER.format(depth=depth, layer_decay=recipe_of_depth(depth)[1])
        longest = 1024
    else:
        imports, optimizer, longest = "SwinTransformer", _SWIN_OPTIMIZER, 1666
        model = _SWIN_MODEL.format(**filled)
    text = _CONFIG.format(
        name=recipe.name,
        source=recipe.source,
        imports=imports,
        model=model,
        mean=mean,
        std=std,
        low=recipe.scales[0],
        high=recipe.scales[1],
        batch=recipe.batch,
        longest=longest,
        weights=WEIGHTS,
        steps=recipe.steps,
        milestones=[round(fraction * recipe.steps) for fraction in recipe.milestones],
        warmup=recipe.warmup,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        optimizer=optimizer,
    )
    return {"detector.py": text}


def card_section(spec: ModelSpec) -> str:
    """Return the section of the model card on the detector."""
    if spec.encoder.family == "vit":
        changes = (
            "ViTDet's ViT has no class token and no last norm: detectron2 lists both as not used. "
            "Relative positions and the pyramid are new, attention is in windows except in four blocks, "
            "and positions are resized to the image."
        )
    else:
        changes = (
            "detectron2 has no copy-paste: it is left out. The norms after the first three stages are new."
        )
    return describe_recipe(spec, changes)
