"""detector.py of a folder for mmdetection: the config of a published detector on the folder's weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastmim_jax.export.formats.detection import RECIPES, describe_recipe, pixel_statistics
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.openmmlab.describe import IMPORTS, backbone_arguments, formatted

WEIGHTS = "backbone.pth"
_CONFIG = '''"""{name}, for mmdetection 3: mim train mmdet detector.py --gpus=8 --launcher=pytorch

{source}.
"""

_base_ = {bases}
{imports}work_dir = "work_dirs/detector"
model = dict(
    data_preprocessor=dict(mean={mean}, std={std}),
    backbone={backbone},
    neck=dict(in_channels={widths}{neck}),{heads}
)
{training}'''
# FastMIM's heads, data and schedule; mmdetection has no config of them.
_SWIN_NECK = ", norm_cfg=dict(type='SyncBN', requires_grad=True)"
_SWIN_HEADS = """
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
        ),
        mask_head=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
    ),"""
_SWIN_TRAINING = """
image_size = (1024, 1024)
load_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=image_size, ratio_range={scales}, keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=image_size),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(
            type='CocoDataset',
            data_root='data/coco/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=load_pipeline,
        ),
        pipeline=[dict(type='CopyPaste', max_num_pasted=100), dict(type='PackDetInputs')],
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1666, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={epochs}, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end={warmup}),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end={epochs}, milestones={milestones}, gamma=0.1),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr={learning_rate}, betas=(0.9, 0.999), weight_decay={weight_decay}),
    paramwise_cfg=dict(
        custom_keys={{
            'absolute_pos_embed': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
            'norm': dict(decay_mult=0.0),
        }}
    ),
)
"""


class _Family(NamedTuple):
    """The config of a family: its base configs, and the options and text that it adds."""

    bases: list[str]
    options: Callable[[ModelSpec], dict[str, Any]]
    neck: str = ""
    heads: str = ""
    training: str = ""


_FAMILIES = {
    "swin": _Family(
        [
            "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
            "mmdet::_base_/datasets/coco_instance.py",
            "mmdet::_base_/default_runtime.py",
        ],
        lambda spec: dict(drop_path_rate=RECIPES["swin"].drop_path, with_cp=True),
        _SWIN_NECK,
        _SWIN_HEADS,
        _SWIN_TRAINING,
    ),
    "convnext": _Family(
        ["mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py"],
        lambda spec: dict(drop_path_rate=RECIPES["convnext"].drop_path),
    ),
    "pvt_v2": _Family(["mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py"], lambda spec: {}),
}


def detector_files(spec: ModelSpec) -> dict[str, str]:
    """Return {"detector.py": a config}.

    Raises:
      UserError: mmdetection has no such backbone, or the backbone takes no RGB images.
    """
    backbone = backbone_arguments("mmdet", spec, "{{ fileDirname }}/" + WEIGHTS)
    family, recipe = _FAMILIES[spec.encoder.family], RECIPES[spec.encoder.family]
    mean, std = pixel_statistics(spec)
    training = family.training and family.training.format(
        scales=recipe.scales,
        epochs=recipe.epochs,
        warmup=recipe.warmup,
        milestones=[round(fraction * recipe.epochs) for fraction in recipe.milestones],
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    text = _CONFIG.format(
        name=recipe.name,
        source=recipe.source,
        bases=family.bases,
        imports=IMPORTS if backbone["type"].startswith("mmpretrain.") else "",
        mean=mean,
        std=std,
        backbone=formatted(dict(_delete_=True, **backbone, **family.options(spec)), 2),
        widths=list(spec.encoder.stage_widths),
        neck=family.neck,
        heads=family.heads,
        training=training or _layer_decay(spec),
    )
    return {"detector.py": text}


def _layer_decay(spec: ModelSpec) -> str:
    """Return the number of groups of a ConvNeXt deeper than ConvNeXt-T, whose config is the base."""
    if spec.encoder.family != "convnext" or spec.encoder.depths[2] <= 9:
        return ""
    return "optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))\n"


def card_section(spec: ModelSpec) -> str:
    """Return the section of the model card on the detector."""
    changes = {
        "swin": "The norms after the first three stages are new. mmdetection resizes tables of relative "
        "positions to the window of `detector.py`; it shifts windows also where one covers the grid.",
        "convnext": "The norms after the first three stages are new.",
    }
    return describe_recipe(spec, changes.get(spec.encoder.family, ""))
