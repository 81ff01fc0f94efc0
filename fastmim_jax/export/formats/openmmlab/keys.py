"""Names of OpenMMLab's mmpretrain (1.2): models of MAE, SimMIM and MixMIM, and classifiers.

Its patch merging reads the four cells of a square channel by channel, (channel, row, column); the
published code and ours read them cell by cell, (column, row, channel). Norm and weight are permuted.
"""

import numpy as np

from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.official.keys import (
    MAE_POSITIONS,
    MIXMIM_POSITIONS,
    TABLE_OF_POSITIONS,
    VIT_POSITIONS,
)
from fastmim_jax.export.formats.rules import (
    CONV,
    LINEAR,
    MIX_TOKEN,
    NORM,
    SHUFFLED_BIAS,
    SHUFFLED_KERNEL,
    SQUARE,
    Format,
    Rule,
    Transform,
    array,
)
from fastmim_jax.export.formats.torchvision.keys import convnext


def _cell_by_cell(x):
    """The last axis from (channel, row, column) to (column, row, channel)."""
    parts = x.reshape(*x.shape[:-1], -1, 2, 2)
    return np.moveaxis(parts, (-3, -2, -1), (-1, -2, -3)).reshape(x.shape)


def _by_channel(x):
    parts = x.reshape(*x.shape[:-1], 2, 2, -1)
    return np.moveaxis(parts, (-3, -2, -1), (-1, -2, -3)).reshape(x.shape)


MERGED = Transform(_cell_by_cell, _by_channel)
MERGED_LINEAR = Transform(lambda x: _cell_by_cell(x).T, lambda x: _by_channel(x.T))
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


def blocks(theirs, ours, block):
    """Rules of numbered blocks. block: {part: (our part, arrays)}."""
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{name}", arrays)
        for part, (name, arrays) in block.items()
    )


def inside(name, rules):
    """The same rules, of a module of that name."""
    return tuple(rule._replace(theirs=f"{name}.{rule.theirs}") for rule in rules)


def _windowed(stages, block, attention, norm):
    """The rules of a backbone of windows.

    stages: name of the list of stages. attention: the module that has the table. norm: the last one.
    """
    table = "relative_position_bias_table"
    return (
        Rule("patch_embed.projection", "encoder/stem/patch", CONV),
        Rule("patch_embed.norm", "encoder/stem/norm", NORM),
        *blocks(f"{stages}.{{}}.blocks", "encoder/stages_{}/blocks", block),
        Rule(
            f"{stages}.{{}}.blocks.{{}}.{attention}.{table}",
            f"encoder/stages_{{}}/blocks/{{}}/attn/{table}",
            array(SQUARE),
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
MIXMIM = (*_windowed("layers", _VIT_BLOCK, "attn", "norm"), TABLE_OF_POSITIONS)
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
# The same norm is one of the mean where there is a head, unless a config says otherwise, else one of cells.
_OF_MEAN, OF_CELLS = Rule("norm3", "pooling/norm", NORM), Rule("norm3", "encoder/norm", NORM)
_VIT_POOLED = Rule("ln2", "pooling/norm", NORM)
_HEAD = Rule("head.fc", "head", LINEAR)
_VIT_HEAD = Rule("head.layers.head", "head", LINEAR)  # of another kind of head, which is only read


def _decoder(positions):
    """The rules of MAE's and MixMIM's decoder, which is the neck there; positions: the rule of those."""
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


def _format(name, family, kind, backbone, others, *buffers):
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
        (*SWIN, TABLE_OF_POSITIONS, Rule("mask_token", "mask_token", array())),
        (Rule("neck.decoder.0", "pred", _PIXELS),),
        relative_indices,
    ),
    _format("vit", "vit", "classifier", (*VIT, _VIT_POOLED), (_HEAD, _VIT_HEAD)),
    _format("swin", "swin", "classifier", (*SWIN, TABLE_OF_POSITIONS), (_HEAD,), relative_indices),
    _format("convnext", "convnext", "classifier", (*CONVNEXT, _OF_MEAN, OF_CELLS), (_HEAD,)),
)
