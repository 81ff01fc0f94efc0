"""The lines of a config of OpenMMLab's mmpretrain, mmdetection or mmsegmentation that load a backbone.

Those libraries have no description of a model beside its arrays: a config's "backbone" tells both.
"""

from functools import partial

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.windows import one_window, square_windows
from fastmim_jax.export.infer_backbone import family_of
from fastmim_jax.models.pvt_v2 import REDUCTIONS

STAGES = (0, 1, 2, 3)  # whose outputs a detector or segmenter takes
IMPORTS = "custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)\n"


def advice(library, encoder, image_size, path, pooling=None, channels=3):
    """The lines of a config.

    Args:
      library: "mmpretrain", "mmdet" or "mmseg".
      encoder: a backbone of ours, a Flax module.
      image_size: (height, width) in pixels that it was trained for.
      path: of the file with its arrays.
      pooling: of a classifier, a key of `heads.POOLINGS`; None for the backbone's own.
      channels: of the images.

    Raises:
      UserError: the library has no such backbone.
    """
    family = family_of(encoder)
    explain = _EXPLAINED.get((library, family))
    if explain is None:
        _refuse(library, f"has no {family}")
    arguments, prefix = explain(partial(_refuse, library), encoder, image_size, pooling or encoder.pooling)
    if channels != 3:
        arguments["in_channels"] = channels
    arguments["init_cfg"] = dict(type="Pretrained", checkpoint=str(path))
    if prefix:
        arguments["init_cfg"]["prefix"] = prefix
    imports = IMPORTS if arguments["type"].startswith("mmpretrain.") else ""
    return f"{imports}backbone = {_written(arguments)}\n"


def _refuse(library, reason):
    raise UserError(f"{library} {reason}: choose another library, such as --to=timm")


def _written(x, depth=1):
    """A dict as configs write it, an argument per line where it is long; other values as Python does."""
    if isinstance(x, list):
        return f"[{', '.join(_written(value, depth) for value in x)}]"
    if not isinstance(x, dict):
        return repr(x)
    if all(not isinstance(value, dict) for value in x.values()) and depth > 1:
        return f"dict({', '.join(f'{key}={value!r}' for key, value in x.items())})"
    lines = [f"{'    ' * depth}{key}={_written(value, depth + 1)},\n" for key, value in x.items()]
    return f"dict(\n{''.join(lines)}{'    ' * (depth - 1)})"


def _norm(epsilon):
    return dict(type="LN", eps=epsilon)


def _scale(encoder):
    """What factors begin at: with 0 there are none, which a file's would be left out of."""
    return encoder.layer_scale or 1e-6


def _whole(refuse, ratio):
    """A ratio of an MLP as an int, which is all that some classes take."""
    if ratio != int(ratio):
        refuse(f"has only whole ratios of an MLP's widths, not {ratio:g}")
    return int(ratio)


def _plain_vit(refuse, encoder):
    if encoder.positions == "none" or encoder.relative_positions != "none":
        refuse("has no ViT with relative positions or without a table of absolute ones")


def _mmpretrain_vit(refuse, encoder, image_size, pooling):
    _plain_vit(refuse, encoder)
    averaged = pooling == "pool_norm"
    arch = dict(
        embed_dims=encoder.width,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        feedforward_channels=int(encoder.width * encoder.mlp_ratio),
    )
    arguments = dict(
        type="VisionTransformer",
        arch=arch,
        img_size=tuple(image_size),
        patch_size=encoder.patch_size,
        norm_cfg=_norm(encoder.epsilon),
        final_norm=not averaged,
        out_type="avg_featmap" if averaged else "cls_token",
    )
    if encoder.layer_scale is not None:
        arguments["layer_scale_init_value"] = _scale(encoder)
    return arguments, "backbone."


def _mmseg_vit(refuse, encoder, image_size, pooling):
    _plain_vit(refuse, encoder)
    if encoder.layer_scale is not None:
        refuse("has no ViT with LayerScale")
    arguments = dict(
        type="VisionTransformer",
        img_size=tuple(image_size),
        patch_size=encoder.patch_size,
        embed_dims=encoder.width,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=_whole(refuse, encoder.mlp_ratio),
        norm_cfg=_norm(encoder.epsilon),
        final_norm=True,
        out_indices=tuple(sorted({-(-encoder.depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})),
    )
    return arguments, None


def _mmpretrain_swin(refuse, encoder, image_size, pooling):
    if encoder.epsilon != 1e-5:
        refuse(f"has no Swin with an epsilon of {encoder.epsilon:g}, only with 1e-05")
    block = {} if encoder.mlp_ratio == 4 else {"block_cfgs": dict(ffn_ratio=float(encoder.mlp_ratio))}
    sides = square_windows(encoder, image_size, refuse)
    for stage, side in enumerate(sides):
        reached = [length // (encoder.embed_stride * 2**stage) == side for length in image_size]
        if any(reached) and not all(reached):
            refuse("shifts no window that is as high as the cells but narrower, or the other way round")
    stages = [dict(window_size=side, **block) for side in sides]
    arguments = dict(
        type="SwinTransformer",
        arch=_windowed_arch(encoder),
        img_size=tuple(image_size),
        use_abs_pos_embed=encoder.positions != "none",
        stage_cfgs=stages[0] if len(set(sides)) == 1 else stages,
    )
    return arguments, "backbone."


def _windowed_arch(encoder):
    return dict(embed_dims=encoder.width, depths=list(encoder.depths), num_heads=list(encoder.heads))


def _dense_swin(refuse, encoder, image_size, pooling):
    """Of mmdet and mmseg, which expect "backbone." in front of the names without being told so.

    They shift windows also where one holds all cells, which others and ours do not: the last stage differs
    for images of the size of pre-training.
    """
    if encoder.positions != "none":
        refuse("cannot load positions of a Swin's cells")
    arguments = dict(
        type="SwinTransformer",
        pretrain_img_size=tuple(image_size),
        embed_dims=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=one_window(encoder, image_size, refuse),
        mlp_ratio=_whole(refuse, encoder.mlp_ratio),
        norm_cfg=_norm(encoder.epsilon),
        out_indices=STAGES,
    )
    return arguments, None


def _mmdet_swin(refuse, encoder, image_size, pooling):
    arguments, prefix = _dense_swin(refuse, encoder, image_size, pooling)
    return {**arguments, "convert_weights": False}, prefix


def _mmpretrain_mixmim(refuse, encoder, image_size, pooling):
    arguments = dict(
        type="MixMIMTransformer",
        arch=_windowed_arch(encoder),
        img_size=tuple(image_size),
        window_size=list(square_windows(encoder, image_size, refuse)),
        mlp_ratio=encoder.mlp_ratio,
        norm_cfg=_norm(encoder.epsilon),
    )
    return arguments, "backbone."


def _mmpretrain_convnext(refuse, encoder, image_size, pooling):
    arguments = dict(
        type="ConvNeXt",
        arch=dict(depths=list(encoder.depths), channels=list(encoder.widths)),
        norm_cfg=dict(type="LN2d", eps=encoder.epsilon),
        layer_scale_init_value=_scale(encoder),
        gap_before_final_norm=pooling == "pool_norm",
    )
    return arguments, "backbone."


def _dense_convnext(refuse, encoder, image_size, pooling):
    """mmpretrain's, for which mmdet and mmseg have none of their own."""
    arguments, prefix = _mmpretrain_convnext(refuse, encoder, image_size, pooling=None)
    return {**arguments, "type": "mmpretrain.ConvNeXt", "out_indices": list(STAGES)}, prefix


def _dense_pvt(refuse, encoder):
    """What the classes of mmdet and mmseg have in common."""
    width = encoder.widths[0] // encoder.heads[0]
    if encoder.attention != "reduced":
        refuse("has no PVT v2 of linear cost")
    if tuple(width * heads for heads in encoder.heads) != tuple(encoder.widths):
        refuse("has only PVT v2 whose heads are equally wide in all stages")
    return dict(
        embed_dims=width,
        num_layers=list(encoder.depths),
        num_heads=list(encoder.heads),
        sr_ratios=list(REDUCTIONS),
        norm_cfg=_norm(encoder.epsilon),
        out_indices=STAGES,
    )


def _mmdet_pvt(refuse, encoder, image_size, pooling):
    ratios = [_whole(refuse, ratio) for ratio in encoder.mlp_ratios]
    common = _dense_pvt(refuse, encoder)
    arguments = dict(type="PyramidVisionTransformerV2", **common, mlp_ratios=ratios, convert_weights=False)
    return arguments, None


def _mmseg_pvt(refuse, encoder, image_size, pooling):
    """SegFormer's backbone, which is PVT v2 with one ratio for all of its MLPs."""
    common = _dense_pvt(refuse, encoder)
    if len(set(encoder.mlp_ratios)) > 1:
        refuse("has no PVT v2 but SegFormer's, with one MLP ratio for all stages as in b5")
    ratio = _whole(refuse, encoder.mlp_ratios[0])
    return dict(type="MixVisionTransformer", **common, mlp_ratio=ratio), None


# {(library, family): (what refuses, encoder, image size, pooling) -> (arguments, prefix of the names)}
_EXPLAINED = {
    ("mmpretrain", "vit"): _mmpretrain_vit,
    ("mmpretrain", "swin"): _mmpretrain_swin,
    ("mmpretrain", "mixmim"): _mmpretrain_mixmim,
    ("mmpretrain", "convnext"): _mmpretrain_convnext,
    ("mmdet", "swin"): _mmdet_swin,
    ("mmdet", "convnext"): _dense_convnext,
    ("mmdet", "pvt_v2"): _mmdet_pvt,
    ("mmseg", "vit"): _mmseg_vit,
    ("mmseg", "swin"): _dense_swin,
    ("mmseg", "convnext"): _dense_convnext,
    ("mmseg", "pvt_v2"): _mmseg_pvt,
}
