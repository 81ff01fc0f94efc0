"""Names of OpenMMLab's mmpretrain (1.2): MixMIM as it is pre-trained there.

Its patch merging reads the four cells of a square channel by channel, (channel, row, column); the
published code and ours read them cell by cell, (column, row, channel). Norm and weight are permuted.
"""

import numpy as np

from fastmim_jax.export.buffers import relative_indices
from fastmim_jax.export.rules import CONV, LINEAR, MIX_TOKEN, NORM, SQUARE, Format, Rule, Transform, array


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

_BLOCK = {
    "ln1": ("norm1", NORM),
    "attn.qkv": ("attn/qkv", LINEAR),
    "attn.proj": ("attn/proj", LINEAR),
    "ln2": ("norm2", NORM),
    "ffn.layers.0.0": ("mlp/fc1", LINEAR),
    "ffn.layers.1": ("mlp/fc2", LINEAR),
}


def _blocks(theirs, ours):
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{name}", arrays)
        for part, (name, arrays) in _BLOCK.items()
    )


BIAS_TABLE = "attn.relative_position_bias_table"
MIXMIM_BACKBONE = (
    Rule("backbone.patch_embed.projection", "encoder/stem/patch", CONV),
    Rule("backbone.patch_embed.norm", "encoder/stem/norm", NORM),
    *_blocks("backbone.layers.{}.blocks", "encoder/stages_{}/blocks"),
    Rule(
        f"backbone.layers.{{}}.blocks.{{}}.{BIAS_TABLE}",
        f"encoder/stages_{{}}/blocks/{{}}/{BIAS_TABLE.replace('.', '/')}",
        array(SQUARE),
    ),
    Rule("backbone.layers.{}.downsample.norm", "encoder/downsamples_{}/norm", MERGED_NORM),
    Rule(
        "backbone.layers.{}.downsample.reduction",
        "encoder/downsamples_{}/reduction",
        ((".weight", "/kernel", MERGED_LINEAR),),
    ),
    Rule("backbone.norm", "encoder/norm", NORM),
)
MIXMIM = (
    *MIXMIM_BACKBONE,
    Rule("neck.mask_token", "mask_token", array(MIX_TOKEN)),
    Rule("neck.decoder_embed", "decoder/embed", LINEAR),
    *_blocks("neck.decoder_blocks", "decoder/blocks"),
    Rule("neck.ln1", "decoder/norm", NORM),
    Rule("neck.decoder_pred", "decoder/pred", LINEAR),
)
MIXMIM_CLASSIFIER = (*MIXMIM_BACKBONE, Rule("head.fc", "head", LINEAR))

FORMATS = (
    Format("mmpretrain_mixmim", "mmpretrain", "mixmim", "mixmim", MIXMIM, (relative_indices,)),
    Format(
        "mmpretrain_mixmim_classifier",
        "mmpretrain",
        "mixmim",
        "classifier",
        MIXMIM_CLASSIFIER,
        (relative_indices,),
    ),
)
