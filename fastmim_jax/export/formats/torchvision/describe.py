"""torchvision's description of a model: a class of torchvision.models and its arguments.

Its ViT classifies by the cls token and takes square images of one size; its Swin has one window for all
stages; its ConvNeXt has a norm after the mean over the grid, where others have it before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import flax.linen as nn

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.windows import one_window

_WINDOWS = dict(window_size=[7, 7], mlp_ratio=4.0)
# Arguments of the models that the functions of these names in torchvision.models build.
BUILDERS: dict[str, dict[str, Any]] = {
    "vit_b_16": dict(patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072),
    "vit_b_32": dict(patch_size=32, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072),
    "vit_l_16": dict(patch_size=16, num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096),
    "vit_l_32": dict(patch_size=32, num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096),
    "vit_h_14": dict(patch_size=14, num_layers=32, num_heads=16, hidden_dim=1280, mlp_dim=5120),
    "swin_t": dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], **_WINDOWS),
    "swin_s": dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], **_WINDOWS),
    "swin_b": dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], **_WINDOWS),
    "convnext_tiny": dict(block_setting=[[96, 192, 3], [192, 384, 3], [384, 768, 9], [768, None, 3]]),
    "convnext_small": dict(block_setting=[[96, 192, 3], [192, 384, 3], [384, 768, 27], [768, None, 3]]),
    "convnext_base": dict(block_setting=[[128, 256, 3], [256, 512, 3], [512, 1024, 27], [1024, None, 3]]),
    "convnext_large": dict(block_setting=[[192, 384, 3], [384, 768, 3], [768, 1536, 27], [1536, None, 3]]),
}


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return torchvision's description of a model.

    Returns:
      {"architecture": class in torchvision.models, "epsilon": of its norms, "arguments": of the class}, and
      "builder" if a function of torchvision.models makes the same model, given the number of classes and a
      ViT's image_size. "block_setting" of a ConvNeXt has a list for each CNBlockConfig.

    Raises:
      UserError: torchvision has no such model.
    """
    encoder, family = spec.encoder, spec.encoder.family
    if family not in _ARCHITECTURES:
        _refuse(f"has no {family}")
    if spec.channels != 3:
        _refuse(f"has models of 3 channels, not of {spec.channels}")
    architecture, class_arguments, poolings = _ARCHITECTURES[family]
    if spec.classes and spec.head_pooling not in poolings:
        _refuse(f"has no {architecture} that classifies by '{spec.head_pooling}'")
    arguments = {**class_arguments(encoder, spec.image_size), "num_classes": len(spec.classes)}
    description = dict(architecture=architecture, epsilon=encoder.epsilon, arguments=arguments)
    matching = (name for name, sizes in BUILDERS.items() if sizes.items() <= arguments.items())
    builder = next(matching, None)
    return {**description, "builder": builder} if builder else description


def backbone_hint(spec: ModelSpec, path: Path) -> list[str]:
    """Return the description of the backbone, as one line."""
    return [str(describe(ModelSpec(spec.encoder, spec.image_size)))]


def _refuse(reason: str) -> NoReturn:
    raise UserError(f"torchvision {reason}: choose another library, such as --to=timm")


def _vit_arguments(encoder: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    height, width = image_size
    if height != width:
        _refuse(f"has ViTs of square images only, not of {height} x {width}")
    if encoder.positions == "none":
        _refuse("has no ViT without position embeddings")
    if not encoder.class_token:
        _refuse("has no ViT without a class token")
    if encoder.class_tokens > 1:
        _refuse("has no ViT with several class tokens")
    if encoder.relative_positions != "none":
        _refuse("has no ViT with relative positions")
    if encoder.layer_scale is not None:
        _refuse("has no ViT with LayerScale")
    return dict(
        image_size=height,
        patch_size=encoder.patch_size,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        hidden_dim=encoder.width,
        mlp_dim=int(encoder.width * encoder.mlp_ratio),
    )


def _swin_arguments(encoder: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    if encoder.positions != "none":
        _refuse("has no Swin with absolute position embeddings")
    return dict(
        patch_size=[4, 4],
        embed_dim=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=[one_window(encoder, image_size, _refuse)] * 2,
        mlp_ratio=float(encoder.mlp_ratio),
    )


def _convnext_arguments(encoder: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    if encoder.epsilon != 1e-6:
        _refuse(f"has no ConvNeXt with an epsilon of {encoder.epsilon:g}, only with 1e-06")
    ends = (*encoder.widths[1:], None)
    setting = zip(encoder.widths, ends, encoder.depths, strict=True)
    return dict(block_setting=[list(stage) for stage in setting], layer_scale=encoder.layer_scale)


# {family: (class, function that makes its arguments, possible poolings)}
_ARCHITECTURES: dict[str, tuple[str, Callable, tuple[str, ...]]] = {
    "vit": ("VisionTransformer", _vit_arguments, ("cls",)),
    "swin": ("SwinTransformer", _swin_arguments, ("pool", "norm_pool")),
    "convnext": ("ConvNeXt", _convnext_arguments, ("pool_norm",)),
}
