"""Key tables of mmpretrain's MAE, SimMIM and MixMIM, and of its classifiers.

Its patch merging orders the four tokens of a square as (channel, row, column), the published code and ours
as (column, row, channel). Norm and weight are permuted.
"""

from collections.abc import Mapping

import numpy as np

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.official.keys import (
    ABSOLUTE_POSITIONS,
    MAE_POSITIONS,
    MIXMIM_POSITIONS,
    VIT_POSITIONS,
)
from fastmim_jax.export.formats.rules import (
    CONV,
    LINEAR,
    MIX_TOKEN,
    NORM,
    SHUFFLED_BIAS,
    SHUFFLED_KERNEL,
    TABLE,
    ArrayRule,
    Buffers,
    Format,
    Rule,
    Transform,
    array,
)
from fastmim_jax.export.formats.torchvision.keys import convnext

Table = tuple[Rule, ...]
Block = Mapping[str, tuple[str, tuple[ArrayRule, ...]]]  # {part: (our part, arrays)}


def _channel_last(x: np.ndarray) -> np.ndarray:
    """The last axis from (channel, row, column) to (column, row, channel)."""
    if x.shape[-1] % 4:
        raise FormatMismatch(f"a width of {x.shape[-1]}, expected a multiple of 4 for patch merging")
    parts = x.reshape(*x.shape[:-1], -1, 2, 2)
    return np.moveaxis(parts, (-3, -2, -1), (-1, -2, -3)).reshape(x.shape)


def _channel_first(x: np.ndarray) -> np.ndarray:
    """Invert `_channel_last`."""
    parts = x.reshape(*x.shape[:-1], 2, 2, -1)
    return np.moveaxis(parts, (-3, -2, -1), (-1, -2, -3)).reshape(x.shape)


MERGED = Transform(_channel_last, _channel_first, 1)
MERGED_LINEAR = Transform(lambda x: _channel_last(x).T, lambda x: _channel_first(x.T), 2)
MERGED_NORM = ((".weight", "/scale", MERGED), (".bias", "/bias", MERGED))

FFN = {"ffn.layers.0.0": ("mlp/fc1", LINEAR), "ffn.layers.1": ("mlp/fc2", LINEAR)}
_VIT_BLOCK = {
    "ln1": ("norm1", NORM),
    "attn.qkv": ("attn/qkv", LINEAR),
    "attn.proj": ("attn/proj", LINEAR),
    "ln2": ("norm2", NORM),
    **FFN,
}
_SWIN_BLOCK = {
    "norm1": ("norm1", NORM),
    "attn.w_msa.qkv": ("attn/qkv", LINEAR),
    "attn.w_msa.proj": ("attn/proj", LINEAR),
    "norm2": ("norm2", NORM),
    **FFN,
}
_SCALES = {
    "attn.gamma1.weight": ("scale1/gamma", array()),
    "ffn.gamma2.weight": ("scale2/gamma", array()),
}


def blocks(theirs: str, ours: str, block: Block) -> Table:
    """Return the rules of numbered blocks."""
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{name}", arrays)
        for part, (name, arrays) in block.items()
    )


def inside(name: str, rules: Table) -> Table:
    """Return the same rules inside a module of that name."""
    return tuple(rule._replace(theirs=f"{name}.{rule.theirs}") for rule in rules)


def _windowed(stages: str, block: Block, attention: str, norm: str) -> Table:
    """Rules of a windowed backbone.

    stages: name of the list of stages. attention: module of the bias table. norm: the last norm.
    """
    table = "relative_position_bias_table"
    return (
        Rule("patch_embed.projection", "encoder/stem/patch", CONV),
        Rule("patch_embed.norm", "encoder/stem/norm", NORM),
        *blocks(f"{stages}.{{}}.blocks", "encoder/stages_{}/blocks", block),
        Rule(
            f"{stages}.{{}}.blocks.{{}}.{attention}.{table}",
            f"encoder/stages_{{}}/blocks/{{}}/attn/{table}",
            array(TABLE),
        ),
        Rule(f"{stages}.{{}}.downsample.norm", "encoder/downsamples_{}/norm", MERGED_NORM),
        Rule(
            f"{stages}.{{}}.downsample.reduction",
            "encoder/downsamples_{}/reduction",
            ((".weight", "/kernel", MERGED_LINEAR),),
        ),
        Rule(norm, "encoder/norm", NORM),
    )


SWIN = _windowed("stages", _SWIN_BLOCK, "attn.w_msa", "norm3")
MIXMIM = (*_windowed("layers", _VIT_BLOCK, "attn", "norm"), ABSOLUTE_POSITIONS)
VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    VIT_POSITIONS,
    Rule("patch_embed.projection", "encoder/patch_embed", CONV),
    *blocks("layers", "encoder/blocks", _VIT_BLOCK | _SCALES),
    Rule("ln1", "encoder/norm", NORM),
)
CONVNEXT = (
    *convnext(
        "downsample_layers.{}".format,
        "stages.{}".format,
        {
            "depthwise_conv": ("conv", CONV),
            "norm": ("norm", NORM),
            "pointwise_conv1": ("mlp/fc1", LINEAR),
            "pointwise_conv2": ("mlp/fc2", LINEAR),
            "gamma": ("gamma", array()),
        },
    ),
)
# With a head this norm follows the mean over the grid, unless a config says otherwise; without one it is
# the backbone's.
_POOLING_NORM, BACKBONE_NORM = Rule("norm3", "pooling/norm", NORM), Rule("norm3", "encoder/norm", NORM)
_VIT_POOLED = Rule("ln2", "pooling/norm", NORM)
_HEAD = Rule("head.fc", "head", LINEAR)
_VIT_HEAD = Rule("head.layers.head", "head", LINEAR)  # of another head class; read, never written


def _decoder(positions: Rule) -> Table:
    """Rules of MAE's and MixMIM's decoder, mmpretrain's neck. positions: of its position embeddings."""
    return inside(
        "neck",
        (
            Rule("decoder_embed", "decoder/embed", LINEAR),
            *blocks("decoder_blocks", "decoder/blocks", _VIT_BLOCK),
            Rule("ln1", "decoder/norm", NORM),
            Rule("decoder_pred", "decoder/pred", LINEAR),
            positions,
        ),
    )


_PIXELS = ((".weight", "/kernel", SHUFFLED_KERNEL), (".bias", "/bias", SHUFFLED_BIAS))


def _format(name: str, family: str, kind: str, backbone: Table, others: Table, *buffers: Buffers) -> Format:
    table = (*inside("backbone", backbone), *others)
    return Format(f"mmpretrain_{name}", "mmpretrain", family, kind, table, buffers)


FORMATS = (
    _format(
        "mixmim",
        "mixmim",
        "mixmim",
        MIXMIM,
        (Rule("neck.mask_token", "mask_token", array(MIX_TOKEN)), *_decoder(MIXMIM_POSITIONS)),
        relative_indices,
    ),
    _format("mixmim_classifier", "mixmim", "classifier", MIXMIM, (_HEAD,), relative_indices),
    _format(
        "mae",
        "vit",
        "mae",
        VIT,
        (Rule("neck.mask_token", "mask_token", array()), *_decoder(MAE_POSITIONS)),
    ),
    _format(
        "simmim_swin",
        "swin",
        "simmim",
        (*SWIN, ABSOLUTE_POSITIONS, Rule("mask_token", "mask_token", array())),
        (Rule("neck.decoder.0", "pred", _PIXELS),),
        relative_indices,
    ),
    _format("vit", "vit", "classifier", (*VIT, _VIT_POOLED), (_HEAD, _VIT_HEAD)),
    _format("swin", "swin", "classifier", (*SWIN, ABSOLUTE_POSITIONS), (_HEAD,), relative_indices),
    _format("convnext", "convnext", "classifier", (*CONVNEXT, _POOLING_NORM, BACKBONE_NORM), (_HEAD,)),
)
