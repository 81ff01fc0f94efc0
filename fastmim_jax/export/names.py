"""Published parameter names against ours: one table per architecture and format, read both ways.

A rule maps a module (or a single array) of a PyTorch state dict to one of our parameter tree; "{}"
stands for the index of a block. Our paths are the keys of the nested parameter dict joined by "/".
"""

import re

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export import openmmlab
from fastmim_jax.export.convnets import BATCH_NORM, CMT, CONVNEXT
from fastmim_jax.export.pvt import PVT_V2
from fastmim_jax.export.rules import CONV, LINEAR, MIX_TOKEN, NORM, PIXEL, SQUARE, Rule, array


def transformer_blocks(theirs, ours):
    """timm's ViT blocks; ours have the same names inside."""
    parts = {
        "norm1": NORM,
        "attn.qkv": LINEAR,
        "attn.proj": LINEAR,
        "norm2": NORM,
        "mlp.fc1": LINEAR,
        "mlp.fc2": LINEAR,
    }
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{part.replace('.', '/')}", arrays)
        for part, arrays in parts.items()
    )


VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    Rule("patch_embed.proj", "encoder/patch_embed", CONV),
    *transformer_blocks("blocks", "encoder/blocks"),
    Rule("norm", "encoder/norm", NORM),
)
SWIN = (
    Rule("patch_embed.proj", "encoder/stem/patch", CONV),
    Rule("patch_embed.norm", "encoder/stem/norm", NORM),
    *transformer_blocks("layers.{}.blocks", "encoder/stages_{}/blocks"),
    Rule(
        "layers.{}.blocks.{}.attn.relative_position_bias_table",
        "encoder/stages_{}/blocks/{}/attn/relative_position_bias_table",
        array(SQUARE),
    ),
    Rule("layers.{}.downsample.norm", "encoder/downsamples_{}/norm", NORM),
    Rule("layers.{}.downsample.reduction", "encoder/downsamples_{}/reduction", LINEAR[:1]),
    Rule("norm", "encoder/norm", NORM),
)
DECODER = (
    Rule("decoder_embed", "decoder/embed", LINEAR),
    *transformer_blocks("decoder_blocks", "decoder/blocks"),
    Rule("decoder_norm", "decoder/norm", NORM),
    Rule("decoder_pred", "decoder/pred", LINEAR),
)


def pretraining(backbone):
    """A published FastMIM model: its backbone has "encoder." in front, but that of ViT."""
    named = tuple(rule._replace(theirs=f"encoder.{rule.theirs}") for rule in backbone)
    return (Rule("mask_token", "mask_token", array(PIXEL)), *named, *DECODER)


def classifying(backbone, *pooling):
    """A published FastMIM fine-tuning model: a backbone, what its pooling has of its own, and a head."""
    return (*backbone, *pooling, Rule("head", "head", LINEAR))


TABLES = {
    "fastmim_vit": (Rule("mask_token", "mask_token", array(PIXEL)), *VIT, *DECODER),
    "fastmim_swin": pretraining(SWIN),
    "fastmim_pvtv2": pretraining(PVT_V2),
    "fastmim_cmt": pretraining(CMT),
    "fastmim_convnext": pretraining(CONVNEXT),
    "mae_vit": (Rule("mask_token", "mask_token", array()), *VIT, *DECODER),
    "mixmim": (Rule("mask_token", "mask_token", array(MIX_TOKEN)), *SWIN, *DECODER),
    "mixmim_classifier": classifying(SWIN),
    "mmpretrain_mixmim": openmmlab.MIXMIM,
    "mmpretrain_mixmim_classifier": openmmlab.MIXMIM_CLASSIFIER,
    "fastmim_vit_classifier": classifying(VIT, Rule("fc_norm", "pooling/norm", NORM)),
    "fastmim_swin_classifier": classifying(SWIN, Rule("fc_norm", "pooling/norm", NORM)),
    "fastmim_pvtv2_classifier": classifying(PVT_V2),
    "fastmim_cmt_classifier": classifying(
        CMT, Rule("_fc", "pooling/fc", CONV), Rule("_bn", "pooling/norm", BATCH_NORM)
    ),
}
# Fixed tables and counters, which the models make themselves or do without; last parts of names.
COMPUTED = (
    "pos_embed",
    "absolute_pos_embed",
    "decoder_pos_embed",
    "relative_position_index",
    "attn_mask",
    "num_batches_tracked",
)
STATISTICS = ("mean", "var")  # last parts of our paths in "batch_stats"; all others are parameters


def to_ours(state_dict, table):
    """A published state dict {name: array} -> our variables {"params": nested, ...}.

    Raises:
      UserError: names that the table does not know.
    """
    wanted = {name: x for name, x in state_dict.items() if name.split(".")[-1] not in COMPUTED}
    renamed = _rename(wanted, table, lambda theirs, ours, values: (theirs, ours, values.to_ours))
    collections = {path: _collection(path) for path in renamed}
    return {
        name: unflatten_dict({path: x for path, x in renamed.items() if collections[path] == name}, sep="/")
        for name in sorted({"params", *collections.values()})
    }


def to_theirs(variables, table):
    """Our variables {"params": nested, ...} -> the published names, without those in COMPUTED.

    Raises:
      UserError: parameters that the table does not know.
    """
    arrays = {}
    for tree in variables.values():
        arrays |= flatten_dict(jax.device_get(tree), sep="/")
    return _rename(arrays, table, lambda theirs, ours, values: (ours, theirs, values.to_theirs))


def _collection(path):
    return "batch_stats" if path.split("/")[-1] in STATISTICS else "params"


def _pattern(name):
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)") + "$")


def _rename(arrays, table, direction):
    """{name: array} -> the other names; direction: (their name, our path, Transform) -> from, to, how."""
    rules = [
        direction(rule.theirs + theirs, rule.ours + ours, transform)
        for rule in TABLES[table]
        for theirs, ours, transform in rule.arrays
    ]
    patterns = [(_pattern(source), target, transform) for source, target, transform in rules]
    renamed, unknown = {}, []
    for name, value in arrays.items():
        for pattern, target, transform in patterns:
            match = pattern.match(name)
            if match:
                renamed[target.format(*match.groups())] = transform(np.asarray(value))
                break
        else:
            unknown.append(name)
    if unknown:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        raise UserError(f"{len(unknown)} names are not of the format '{table}': {shown}")
    return renamed
