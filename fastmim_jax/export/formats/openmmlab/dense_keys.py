"""Key tables of mmdetection's and mmsegmentation's backbones, in the form that their loaders take.

Names of Swin and ConvNeXt are mmpretrain's, inside a "backbone"; names of ViT and PVT v2 have no prefix.
None has a head, and Swin has no position embeddings. All norms of PVT v2 have the epsilon 1e-6 there; here,
as in the original, it is 1e-5 after the patch embeddings and before the keys.
"""

import numpy as np

from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.official.keys import VIT_POSITIONS
from fastmim_jax.export.formats.openmmlab.keys import BACKBONE_NORM, CONVNEXT, FFN, SWIN, blocks, inside
from fastmim_jax.export.formats.rules import (
    CONV,
    LINEAR,
    NORM,
    Buffers,
    Format,
    Rule,
    Transform,
    array,
)
from fastmim_jax.export.formats.torchvision.keys import IN_PROJECTION
from fastmim_jax.models.pyramid import STAGES


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries, keys and values (3 * D, ...) -> transposed queries, transposed keys and values."""
    width = len(x) // 3
    return x[:width].T, x[width:].T


JOINED = Transform(_split, lambda query, key_value: np.concatenate([query.T, key_value.T]))
# A 1 x 1 convolution (out, in, 1, 1) <-> a linear layer (in, out).
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None], 4)
_CONVOLVED_LINEAR = ((".weight", "/kernel", POINTWISE), LINEAR[1])

VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    VIT_POSITIONS,
    Rule("patch_embed.projection", "encoder/patch_embed", CONV),
    *blocks(
        "layers",
        "encoder/blocks",
        {
            "ln1": ("norm1", NORM),
            "attn.attn.in_proj": ("attn/qkv", IN_PROJECTION),
            "attn.attn.out_proj": ("attn/proj", LINEAR),
            "ln2": ("norm2", NORM),
            **FFN,
        },
    ),
    Rule("ln1", "encoder/norm", NORM),
)

_PVT_BLOCK = {
    "norm1": ("norm1", NORM),
    "attn.attn": (
        "attn",
        (
            (".in_proj_weight", ("/q/kernel", "/kv/kernel"), JOINED),
            (".in_proj_bias", ("/q/bias", "/kv/bias"), JOINED),
        ),
    ),
    "attn.attn.out_proj": ("attn/proj", LINEAR),
    "attn.sr": ("attn/sr", CONV),
    "attn.norm": ("attn/norm", NORM),
    "norm2": ("norm2", NORM),
    "ffn.layers.0": ("mlp/fc1", _CONVOLVED_LINEAR),
    "ffn.layers.1": ("mlp/dwconv", CONV),
    "ffn.layers.4": ("mlp/fc2", _CONVOLVED_LINEAR),
}


def _pvt_stage(number: int) -> tuple[Rule, ...]:
    patches = f"downsamples_{number - 1}" if number else "stem"
    return (
        Rule(f"layers.{number}.0.projection", f"encoder/{patches}/patch", CONV),
        Rule(f"layers.{number}.0.norm", f"encoder/{patches}/norm", NORM),
        *blocks(f"layers.{number}.1", f"encoder/stages_{number}/blocks", _PVT_BLOCK),
        Rule(f"layers.{number}.2", f"encoder/stages_{number}/norm", NORM),
    )


PVT_V2 = tuple(rule for number in range(STAGES) for rule in _pvt_stage(number))


def _format(library: str, family: str, table: tuple[Rule, ...], *buffers: Buffers) -> Format:
    return Format(f"{library}_{family}", library, family, "classifier", table, buffers)


def _common(library: str) -> tuple[Format, ...]:
    """Formats that both libraries have."""
    return (
        _format(library, "swin", inside("backbone", SWIN), relative_indices),
        _format(library, "convnext", inside("backbone", (*CONVNEXT, BACKBONE_NORM))),
        _format(library, "pvt_v2", PVT_V2),
    )


MMDET = _common("mmdet")
MMSEG = (*_common("mmseg"), _format("mmseg", "vit", VIT))
