"""detectron2's description of a backbone: a class of detectron2.modeling and its arguments."""

from functools import partial
from typing import Any

import flax.linen as nn

from fastmim_jax.export.formats.detection import RECIPES, refuse
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.windows import one_window

WINDOW, DETECTOR_SIZE = 14, 1024  # of ViTDet: cells per side of a window, pixels of an image
GLOBAL_BLOCKS = 4  # blocks of ViTDet whose attention is not in windows
# Of ViTDet-B, L and H, by the number of blocks: drop path, layer decay.
LARGER_VITS = {24: (0.4, 0.8), 32: (0.5, 0.9)}
_refuse = partial(refuse, "detectron2")


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return {"class": in detectron2.modeling, "epsilon": of its norms, "arguments": of the class}.

    Raises:
      UserError: detectron2 has no such backbone.
    """
    encoder = spec.encoder
    if encoder.family not in _FAMILIES:
        _refuse(f"has no {encoder.family}")
    name, arguments = _FAMILIES[encoder.family]
    return {"class": name, "epsilon": encoder.epsilon, "arguments": arguments(encoder, spec.image_size)}


def recipe_of_depth(depth: int) -> tuple[float, float]:
    """Return (drop path, layer decay) of ViTDet with a number of blocks."""
    return LARGER_VITS.get(depth, (RECIPES["vit"].drop_path, RECIPES["vit"].layer_decay))


def _vit(encoder: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    height, width = image_size
    if encoder.relative_positions != "none":
        _refuse("has no ViT with these relative positions")
    if encoder.layer_scale is not None:
        _refuse("has no ViT with LayerScale")
    if encoder.class_tokens > 1:
        _refuse("has no ViT with several class tokens")
    if height != width and encoder.positions != "none":
        _refuse(
            f"has ViTs with square tables of positions only, not of {height} x {width} pixels (type "
            f"--image_size={max(height, width)} to resample them)"
        )
    quarter = -(-encoder.depth // GLOBAL_BLOCKS)
    windowed = [
        block for block in range(encoder.depth) if (block + 1) % quarter and block + 1 < encoder.depth
    ]
    return dict(
        img_size=DETECTOR_SIZE,
        patch_size=encoder.patch_size,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
        drop_path_rate=recipe_of_depth(encoder.depth)[0],
        window_size=WINDOW,
        window_block_indexes=windowed,
        use_abs_pos=encoder.positions != "none",
        use_rel_pos=True,
        pretrain_img_size=height,
        pretrain_use_cls_token=encoder.class_token,
    )


def _swin(encoder: nn.Module, image_size: tuple[int, int]) -> dict[str, Any]:
    if encoder.positions != "none":
        _refuse("cannot load position embeddings of a Swin")
    return dict(
        pretrain_img_size=image_size[0],
        embed_dim=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=one_window(encoder, image_size, _refuse),
        mlp_ratio=encoder.mlp_ratio,
        drop_path_rate=RECIPES["swin"].drop_path,
    )


_FAMILIES = {"vit": ("ViT", _vit), "swin": ("SwinTransformer", _swin)}
