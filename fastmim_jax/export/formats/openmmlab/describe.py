"""Lines of a config of mmpretrain, mmdetection or mmsegmentation that load a backbone.

These libraries have no description of a model beside its arrays: a config's "backbone" names both.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import flax.linen as nn

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.windows import Refuse, check_shifts, one_window, square_windows
from fastmim_jax.models.pvt_v2 import REDUCTIONS

STAGES = (0, 1, 2, 3)  # whose outputs a detector or segmenter takes
IMPORTS = "custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)\n"
Arguments = dict[str, Any]
Described = tuple[Arguments, str | None]  # arguments of the class, prefix of the names in the file


def config_lines(library: str, spec: ModelSpec, path: Path) -> list[str]:
    """Return the lines of a config.

    Args:
      library: "mmpretrain", "mmdet" or "mmseg".
      path: of the file with the arrays.

    Raises:
      UserError: the library has no such backbone.
    """
    arguments = backbone_arguments(library, spec, str(path))
    imports = IMPORTS if arguments["type"].startswith("mmpretrain.") else ""
    return f"{imports}backbone = {formatted(arguments)}".splitlines()


def backbone_arguments(library: str, spec: ModelSpec, checkpoint: str) -> Arguments:
    """Return the "backbone" of a config: its type, the arguments of the class, and the file to load.

    Raises:
      UserError: the library has no such backbone.
    """
    family = spec.encoder.family
    describe_backbone = _BACKBONES.get((library, family))
    if describe_backbone is None:
        _refuse(library, f"has no {family}")
    arguments, prefix = describe_backbone(partial(_refuse, library), spec)
    if spec.channels != 3:
        arguments["in_channels"] = spec.channels
    arguments["init_cfg"] = dict(type="Pretrained", checkpoint=checkpoint)
    if prefix:
        arguments["init_cfg"]["prefix"] = prefix
    return arguments


def _refuse(library: str, reason: str) -> NoReturn:
    raise UserError(f"{library} {reason}: choose another library for --to=")


def formatted(x: Any, depth: int = 1) -> str:
    """Return a dict as dict(...), its arguments on lines of their own at the top; other values by repr."""
    if isinstance(x, list):
        return f"[{', '.join(formatted(value, depth) for value in x)}]"
    if not isinstance(x, dict):
        return repr(x)
    if all(not isinstance(value, dict) for value in x.values()) and depth > 1:
        return f"dict({', '.join(f'{key}={value!r}' for key, value in x.items())})"
    lines = [f"{'    ' * depth}{key}={formatted(value, depth + 1)},\n" for key, value in x.items()]
    return f"dict(\n{''.join(lines)}{'    ' * (depth - 1)})"


def _norm(epsilon: float) -> Arguments:
    return dict(type="LN", eps=epsilon)


def _layer_scale(encoder: nn.Module) -> float:
    """Initial value of the layer scale; with 0 the libraries make none and ignore the file's."""
    return encoder.layer_scale or 1e-6


def _integer_ratio(refuse: Refuse, ratio: float) -> int:
    """An MLP ratio as an int, for classes that take nothing else."""
    if ratio != int(ratio):
        refuse(f"has integer MLP ratios only, not {ratio:g}")
    return int(ratio)


def _pooling(spec: ModelSpec) -> str:
    return spec.pooling or spec.encoder.pooling


def _check_vit(refuse: Refuse, encoder: nn.Module) -> None:
    if encoder.positions == "none" or encoder.relative_positions != "none":
        refuse("has no ViT with relative positions or without absolute ones")
    if encoder.class_tokens > 1:
        refuse("has no ViT with several class tokens")


def _mmpretrain_vit(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder, image_size = spec.encoder, spec.image_size
    _check_vit(refuse, encoder)
    averaged = _pooling(spec) == "pool_norm"
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
        out_type="avg_featmap" if averaged else "cls_token" if encoder.class_token else "featmap",
    )
    if not encoder.class_token:
        arguments["with_cls_token"] = False
    if encoder.layer_scale is not None:
        arguments["layer_scale_init_value"] = _layer_scale(encoder)
    return arguments, "backbone."


def _mmseg_vit(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder, image_size = spec.encoder, spec.image_size
    _check_vit(refuse, encoder)
    if not encoder.class_token:
        refuse("has no ViT without a class token")
    if encoder.layer_scale is not None:
        refuse("has no ViT with LayerScale")
    arguments = dict(
        type="VisionTransformer",
        img_size=tuple(image_size),
        patch_size=encoder.patch_size,
        embed_dims=encoder.width,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=_integer_ratio(refuse, encoder.mlp_ratio),
        norm_cfg=_norm(encoder.epsilon),
        final_norm=True,
        out_indices=tuple(sorted({-(-encoder.depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})),
    )
    return arguments, None


def _mmpretrain_swin(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder, image_size = spec.encoder, spec.image_size
    if encoder.epsilon != 1e-5:
        refuse(f"has no Swin with an epsilon of {encoder.epsilon:g}, only with 1e-05")
    block = {} if encoder.mlp_ratio == 4 else {"block_cfgs": dict(ffn_ratio=float(encoder.mlp_ratio))}
    sides = square_windows(encoder, image_size, refuse)
    check_shifts(encoder, image_size, refuse)
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


def _dense_swin(refuse: Refuse, spec: ModelSpec) -> Described:
    """mmdet's and mmseg's, whose loaders expect the prefix "backbone." without an argument.

    They shift windows even if one window covers the grid, others and ours do not: the last stage differs
    for images of the size of pre-training.
    """
    encoder, image_size = spec.encoder, spec.image_size
    if encoder.positions != "none":
        refuse("cannot load position embeddings of a Swin")
    arguments = dict(
        type="SwinTransformer",
        pretrain_img_size=tuple(image_size),
        embed_dims=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=one_window(encoder, image_size, refuse),
        mlp_ratio=_integer_ratio(refuse, encoder.mlp_ratio),
        norm_cfg=_norm(encoder.epsilon),
        out_indices=STAGES,
    )
    return arguments, None


def _mmdet_swin(refuse: Refuse, spec: ModelSpec) -> Described:
    arguments, prefix = _dense_swin(refuse, spec)
    return {**arguments, "convert_weights": False}, prefix


def _mmpretrain_mixmim(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder, image_size = spec.encoder, spec.image_size
    arguments = dict(
        type="MixMIMTransformer",
        arch=_windowed_arch(encoder),
        img_size=tuple(image_size),
        window_size=list(square_windows(encoder, image_size, refuse)),
        mlp_ratio=encoder.mlp_ratio,
        norm_cfg=_norm(encoder.epsilon),
    )
    return arguments, "backbone."


def _mmpretrain_convnext(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder = spec.encoder
    arguments = dict(
        type="ConvNeXt",
        arch=dict(depths=list(encoder.depths), channels=list(encoder.widths)),
        norm_cfg=dict(type="LN2d", eps=encoder.epsilon),
        layer_scale_init_value=_layer_scale(encoder),
        gap_before_final_norm=_pooling(spec) == "pool_norm",
    )
    return arguments, "backbone."


def _dense_convnext(refuse: Refuse, spec: ModelSpec) -> Described:
    """mmpretrain's, as mmdet and mmseg have none of their own; its last norm is one of the grid."""
    arguments, prefix = _mmpretrain_convnext(refuse, spec)
    more = dict(type="mmpretrain.ConvNeXt", gap_before_final_norm=False, out_indices=list(STAGES))
    return {**arguments, **more}, prefix


def _dense_pvt(refuse: Refuse, encoder: nn.Module) -> Arguments:
    """Arguments that the classes of mmdet and mmseg have in common."""
    width = encoder.widths[0] // encoder.heads[0]
    if encoder.attention != "reduced":
        refuse("has no PVT v2 of linear cost")
    if tuple(width * heads for heads in encoder.heads) != tuple(encoder.widths):
        refuse("has only PVT v2 with one head width for all stages")
    return dict(
        embed_dims=width,
        num_layers=list(encoder.depths),
        num_heads=list(encoder.heads),
        sr_ratios=list(REDUCTIONS),
        norm_cfg=_norm(encoder.epsilon),
        out_indices=STAGES,
    )


def _mmdet_pvt(refuse: Refuse, spec: ModelSpec) -> Described:
    encoder = spec.encoder
    ratios = [_integer_ratio(refuse, ratio) for ratio in encoder.mlp_ratios]
    common = _dense_pvt(refuse, encoder)
    arguments = dict(type="PyramidVisionTransformerV2", **common, mlp_ratios=ratios, convert_weights=False)
    return arguments, None


def _mmseg_pvt(refuse: Refuse, spec: ModelSpec) -> Described:
    """SegFormer's backbone: PVT v2 with one MLP ratio for all stages."""
    encoder = spec.encoder
    common = _dense_pvt(refuse, encoder)
    if len(set(encoder.mlp_ratios)) > 1:
        refuse("has SegFormer's PVT v2 only, with one MLP ratio for all stages as in b5")
    ratio = _integer_ratio(refuse, encoder.mlp_ratios[0])
    return dict(type="MixVisionTransformer", **common, mlp_ratio=ratio), None


_BACKBONES: dict[tuple[str, str], Callable[[Refuse, ModelSpec], Described]] = {
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
