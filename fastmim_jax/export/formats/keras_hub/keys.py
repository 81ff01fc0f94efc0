"""Key tables of keras_hub's ViT and Swin and of Keras's ConvNeXt: the paths of their variables.

Arrays have the values' layout of Keras, which is ours, except that the axes of heads are joined: a loader
reshapes each array to its variable.
"""

import numpy as np

from fastmim_jax.export.formats.rules import (
    SAME,
    TABLE,
    VECTOR,
    ArrayRule,
    Format,
    Rule,
    Transform,
    array,
)
from fastmim_jax.models.pyramid import STAGES

MOST_BLOCKS = 64  # of a ViT; Keras counts them from 1


def _split_thirds(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """(..., 3 * D) -> queries, keys and values, (..., D) each."""
    return tuple(np.split(x, 3, axis=-1))


def _join_thirds(*parts: np.ndarray) -> np.ndarray:
    """Invert `_split_thirds`."""
    return np.concatenate(parts, axis=-1)


def _split_positions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, x[:0]


def _join_positions(grid: np.ndarray, cls: np.ndarray) -> np.ndarray:
    return np.concatenate([cls, grid.reshape(-1, grid.shape[-1])])


JOINED = Transform(_join_thirds, _split_thirds)
POSITIONS = Transform(_split_positions, _join_positions, 2)
KERNEL = SAME._replace(ndim=2)
DENSE: tuple[ArrayRule, ...] = (("/kernel", "/kernel", KERNEL), ("/bias", "/bias", VECTOR))
CONV: tuple[ArrayRule, ...] = (("/kernel", "/kernel", SAME._replace(ndim=4)), DENSE[1])
NORM: tuple[ArrayRule, ...] = (("/gamma", "/scale", VECTOR), ("/beta", "/bias", VECTOR))
QKV: tuple[ArrayRule, ...] = tuple(
    (tuple(f"/{name}/{part}" for name in ("query", "key", "value")), f"/qkv/{part}", JOINED)
    for part in ("kernel", "bias")
)

_VIT_BLOCK = {
    "ln_1": ("norm1", NORM),
    "mha": ("attn", QKV),
    "mha/attention_output": ("attn/proj", DENSE),
    "ln_2": ("norm2", NORM),
    "mlp/dense_1": ("mlp/fc1", DENSE),
    "mlp/dense_2": ("mlp/fc2", DENSE),
}
_EMBEDDING = "vit_patching_and_embedding"
VIT = (
    Rule(f"{_EMBEDDING}/class_token", "encoder/cls_token", array()),
    Rule(f"{_EMBEDDING}/patch_embedding", "encoder/patch_embed", CONV),
    Rule(
        f"{_EMBEDDING}/position_embedding/embeddings",
        "encoder/position",
        (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),),
    ),
    *(
        Rule(
            f"vit_encoder/transformer_block_{number + 1}/{theirs}", f"encoder/blocks/{number}/{ours}", kind
        )
        for number in range(MOST_BLOCKS)
        for theirs, (ours, kind) in _VIT_BLOCK.items()
    ),
    Rule("vit_encoder/ln", "encoder/norm", NORM),
)

_TABLE = "relative_position_bias_table"
_SWIN_BLOCK = {
    "norm1": ("norm1", NORM),
    f"attn/{_TABLE}": (f"attn/{_TABLE}", array(TABLE)),
    "attn/attention_qkv": ("attn/qkv", DENSE),
    "attn/attention_projection": ("attn/proj", DENSE),
    "norm2": ("norm2", NORM),
    "mlp/fc1": ("mlp/fc1", DENSE),
    "mlp/fc2": ("mlp/fc2", DENSE),
}
SWIN = (
    Rule("patch_embedding/conv_projection", "encoder/stem/patch", CONV),
    Rule("patch_embedding/norm", "encoder/stem/norm", NORM),
    *(
        Rule(f"stage_{{}}/blocks_{{}}/{theirs}", f"encoder/stages_{{}}/blocks/{{}}/{ours}", kind)
        for theirs, (ours, kind) in _SWIN_BLOCK.items()
    ),
    Rule("stage_{}/downsample/norm", "encoder/downsamples_{}/norm", NORM),
    Rule("stage_{}/downsample/reduction", "encoder/downsamples_{}/reduction", DENSE[:1]),
    Rule("norm", "encoder/norm", NORM),
)

_CONVNEXT_BLOCK = {
    "depthwise_conv": ("conv", CONV),
    "layernorm": ("norm", NORM),
    "pointwise_conv_1": ("mlp/fc1", DENSE),
    "pointwise_conv_2": ("mlp/fc2", DENSE),
    "layer_scale/variable": ("gamma", array(VECTOR)),
}
CONVNEXT = (
    Rule("convnext_stem/convnext_stem_conv", "encoder/stem/patch", CONV),
    Rule("convnext_stem/convnext_stem_layernorm", "encoder/stem/norm", NORM),
    *(
        Rule(
            f"convnext_downsampling_block_{number}/convnext_downsampling_{theirs}_{number}",
            f"encoder/downsamples_{number}/{ours}",
            kind,
        )
        for number in range(STAGES - 1)
        for theirs, ours, kind in (("layernorm", "norm", NORM), ("conv", "patch", CONV))
    ),
    *(
        Rule(f"convnext_stage_{{}}_block_{{}}_{theirs}", f"encoder/stages_{{}}/blocks/{{}}/{ours}", kind)
        for theirs, (ours, kind) in _CONVNEXT_BLOCK.items()
    ),
    Rule("layer_normalization", "encoder/norm", NORM),
)
FORMATS = tuple(
    Format(f"keras_hub_{family}", "keras_hub", family, "classifier", table)
    for family, table in (("vit", VIT), ("swin", SWIN), ("convnext", CONVNEXT))
)
