"""Key tables of torchvision's ViT, Swin and ConvNeXt."""

from collections.abc import Callable, Mapping

import numpy as np

from fastmim_jax.export.formats.buffers import NO_WINDOWS, Windows, relative_indices
from fastmim_jax.export.formats.rules import (
    CONV,
    LINEAR,
    NORM,
    POSITIONS,
    TABLE,
    TRANSPOSE,
    VECTOR,
    ArrayRule,
    Format,
    Rule,
    State,
    Transform,
    array,
)
from fastmim_jax.models.pyramid import STAGES

# torch.nn.MultiheadAttention: queries, keys and values are one array, named without a dot.
IN_PROJECTION = (("_weight", "/kernel", TRANSPOSE), ("_bias", "/bias", VECTOR))
CHANNELS_FIRST = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1), 3)
Block = Mapping[str, tuple[str, tuple[ArrayRule, ...]]]


def convnext(
    downsample: Callable[[int], str], stage: Callable[[int], str], block: Block
) -> tuple[Rule, ...]:
    """Return the rules of a ConvNeXt up to its last stage.

    Args:
      downsample, stage: number of a stage, from 0 -> name of its patch embedding, of its blocks.
      block: {part of a block: (our part, arrays)}.
    """
    rules = [Rule(f"{downsample(0)}.0", "encoder/stem/patch", CONV)]
    rules += [Rule(f"{downsample(0)}.1", "encoder/stem/norm", NORM)]
    for number in range(1, STAGES):
        ours = f"encoder/downsamples_{number - 1}"
        rules += [Rule(f"{downsample(number)}.0", f"{ours}/norm", NORM)]
        rules += [Rule(f"{downsample(number)}.1", f"{ours}/patch", CONV)]
    for number in range(STAGES):
        theirs, ours = f"{stage(number)}.{{}}", f"encoder/stages_{number}/blocks/{{}}"
        rules += [Rule(f"{theirs}.{part}", f"{ours}/{name}", kind) for part, (name, kind) in block.items()]
    return tuple(rules)


def _swin_stage(number: int) -> tuple[Rule, ...]:
    stage, ours = f"features.{2 * number + 1}.{{}}", f"encoder/stages_{number}/blocks/{{}}"
    table, downsample = "relative_position_bias_table", f"features.{2 * number + 2}"
    parts = {
        "norm1": ("norm1", NORM),
        f"attn.{table}": (f"attn/{table}", array(TABLE)),
        "attn.qkv": ("attn/qkv", LINEAR),
        "attn.proj": ("attn/proj", LINEAR),
        "norm2": ("norm2", NORM),
        "mlp.0": ("mlp/fc1", LINEAR),
        "mlp.3": ("mlp/fc2", LINEAR),
    }
    return (
        *(Rule(f"{stage}.{part}", f"{ours}/{name}", arrays) for part, (name, arrays) in parts.items()),
        Rule(f"{downsample}.norm", f"encoder/downsamples_{number}/norm", NORM),
        Rule(f"{downsample}.reduction", f"encoder/downsamples_{number}/reduction", LINEAR[:1]),
    )


_VIT_BLOCK = {
    "ln_1": ("norm1", NORM),
    "self_attention.in_proj": ("attn/qkv", IN_PROJECTION),
    "self_attention.out_proj": ("attn/proj", LINEAR),
    "ln_2": ("norm2", NORM),
    "mlp.0": ("mlp/fc1", LINEAR),
    "mlp.3": ("mlp/fc2", LINEAR),
}
VIT = (
    Rule("class_token", "encoder/cls_token", array()),
    Rule("conv_proj", "encoder/patch_embed", CONV),
    Rule("encoder.pos_embedding", "encoder/position", (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),)),
    *(
        Rule(f"encoder.layers.encoder_layer_{{}}.{part}", f"encoder/blocks/{{}}/{name}", arrays)
        for part, (name, arrays) in _VIT_BLOCK.items()
    ),
    Rule("encoder.ln", "encoder/norm", NORM),
    Rule("heads.head", "head", LINEAR),
)
SWIN = (
    Rule("features.0.0", "encoder/stem/patch", CONV),
    Rule("features.0.2", "encoder/stem/norm", NORM),
    *(rule for number in range(STAGES) for rule in _swin_stage(number)),
    Rule("norm", "encoder/norm", NORM),
    Rule("head", "head", LINEAR),
)
_CONVNEXT = (
    *convnext(
        lambda number: f"features.{2 * number}",
        lambda number: f"features.{2 * number + 1}",
        {
            "block.0": ("conv", CONV),
            "block.2": ("norm", NORM),
            "block.3": ("mlp/fc1", LINEAR),
            "block.5": ("mlp/fc2", LINEAR),
            "layer_scale": ("gamma", array(CHANNELS_FIRST)),
        },
    ),
)
# With a head this norm follows the mean over the grid; without one it is the backbone's.
_POOLING_NORM = Rule("classifier.0", "pooling/norm", NORM)
_BACKBONE_NORM = Rule("classifier.0", "encoder/norm", NORM)
CONVNEXT = (*_CONVNEXT, _POOLING_NORM, _BACKBONE_NORM, Rule("classifier.2", "head", LINEAR))


def flat_indices(
    state: State, image_size: tuple[int, int], windows: Windows = NO_WINDOWS
) -> dict[str, np.ndarray]:
    """Return `relative_position_index`, flat (N * N,), beside every table of relative positions."""
    return {name: index.reshape(-1) for name, index in relative_indices(state, image_size, windows).items()}


FORMATS = (
    Format("torchvision_vit", "torchvision", "vit", "classifier", VIT),
    Format("torchvision_swin", "torchvision", "swin", "classifier", SWIN, (flat_indices,)),
    Format("torchvision_convnext", "torchvision", "convnext", "classifier", CONVNEXT),
    Format(
        "torchvision_convnext_backbone",
        "torchvision",
        "convnext",
        "classifier",
        (*_CONVNEXT, _BACKBONE_NORM),
    ),
)
