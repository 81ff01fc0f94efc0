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
from fastmim_jax.export.rules import (
    CONV,
    GRID_POSITIONS,
    LINEAR,
    MIX_TOKEN,
    NORM,
    PIXEL,
    POSITIONS,
    QUERY_VALUE,
    RELATIVE,
    SHUFFLED_BIAS,
    SHUFFLED_KERNEL,
    SQUARE,
    Rule,
    array,
)

QKV = (("attn.qkv", LINEAR),)


def transformer_blocks(theirs, ours, qkv=QKV):
    """timm's ViT blocks; ours have the same names inside. qkv: (name, arrays) of what makes the three."""
    parts = (
        ("norm1", NORM),
        *qkv,
        ("attn.proj", LINEAR),
        ("norm2", NORM),
        ("mlp.fc1", LINEAR),
        ("mlp.fc2", LINEAR),
    )
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{part.replace('.', '/')}", arrays)
        for part, arrays in parts
    )


VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    Rule("patch_embed.proj", "encoder/patch_embed", CONV),
    *transformer_blocks("blocks", "encoder/blocks"),
    Rule("norm", "encoder/norm", NORM),
)
VIT_POSITIONS = Rule("pos_embed", "encoder/position", (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),))
RELATIVE_TABLES = (
    "",
    ("/relative_position_bias_table", "/cls_relative_position_bias"),
    RELATIVE,
)
SIMMIM_VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    VIT_POSITIONS,
    Rule("patch_embed.proj", "encoder/patch_embed", CONV),
    Rule("rel_pos_bias.relative_position_bias_table", "encoder/relative_position", (RELATIVE_TABLES,)),
    Rule(
        "blocks.{}.attn.relative_position_bias_table",
        "encoder/blocks/{}/attn/relative_position",
        (RELATIVE_TABLES,),
    ),
    *transformer_blocks(
        "blocks",
        "encoder/blocks",
        qkv=(
            ("attn.qkv", LINEAR[:1]),
            ("attn", (((".q_bias", ".v_bias"), "/qkv/bias", QUERY_VALUE),)),
        ),
    ),
    Rule("blocks.{}.gamma_1", "encoder/blocks/{}/scale1/gamma", array()),
    Rule("blocks.{}.gamma_2", "encoder/blocks/{}/scale2/gamma", array()),
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
    # Of partial reconstruction, which has no published names.
    *(
        Rule(f"decoder_fill.{{}}.{name}", f"reconstruct/fill/stage_{{}}/{name}", array())
        for name in ("kernel", "thrown_token", "position_scale")
    ),
)


SIMMIM = (
    Rule("encoder.mask_token", "mask_token", array()),
    Rule("decoder.0", "pred", ((".weight", "/kernel", SHUFFLED_KERNEL), (".bias", "/bias", SHUFFLED_BIAS))),
)


def inside_encoder(backbone):
    """The rules of a backbone that a published method has as its "encoder"."""
    return tuple(rule._replace(theirs=f"encoder.{rule.theirs}") for rule in backbone)


def pretraining(backbone):
    """A published FastMIM model, other than ViT's."""
    return (Rule("mask_token", "mask_token", array(PIXEL)), *inside_encoder(backbone), *DECODER)


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
    "simmim_vit": (*SIMMIM, *inside_encoder(SIMMIM_VIT)),
    "simmim_swin": (
        *SIMMIM,
        *inside_encoder(
            (*SWIN, Rule("absolute_pos_embed", "encoder/position/pos_embed", array(GRID_POSITIONS)))
        ),
    ),
    "mmpretrain_mixmim": openmmlab.MIXMIM,
    "mmpretrain_mixmim_classifier": openmmlab.MIXMIM_CLASSIFIER,
    "fastmim_vit_classifier": classifying(VIT, VIT_POSITIONS, Rule("fc_norm", "pooling/norm", NORM)),
    "fastmim_swin_classifier": classifying(SWIN, Rule("fc_norm", "pooling/norm", NORM)),
    "fastmim_pvtv2_classifier": classifying(PVT_V2),
    "fastmim_cmt_classifier": classifying(
        CMT, Rule("_fc", "pooling/fc", CONV), Rule("_bn", "pooling/norm", BATCH_NORM)
    ),
}
# Fixed tables and counters, which the models make themselves or do without; last parts of names. Where a
# table has a rule for such a name, it is learned there.
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
      UserError: names that the table does not know, or a part of what belongs together.
    """
    renamed = _rename(state_dict, table, lambda theirs, ours, values: (theirs, ours, values.to_ours))
    collections = {path: _collection(path) for path in renamed}
    return {
        name: unflatten_dict({path: x for path, x in renamed.items() if collections[path] == name}, sep="/")
        for name in sorted({"params", *collections.values()})
    }


def to_theirs(variables, table):
    """Our variables {"params": nested, ...} -> the published names, without those in COMPUTED.

    Raises:
      UserError: parameters that the table does not know, or a part of what belongs together.
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
    """{name: array} -> the other names; direction: (their names, our paths, Transform) -> from, to, how."""
    rules = [
        direction(_names(rule.theirs, theirs), _names(rule.ours, ours), transform)
        for rule in TABLES[table]
        for theirs, ours, transform in rule.arrays
    ]
    patterns = [
        (_pattern(source), part, number)
        for number, (sources, _, _) in enumerate(rules)
        for part, source in enumerate(sources)
    ]
    found, unknown = {}, []  # {(rule, indices of blocks): {part: array}}
    for name, value in arrays.items():
        for pattern, part, number in patterns:
            match = pattern.match(name)
            if match:
                found.setdefault((number, match.groups()), {})[part] = np.asarray(value)
                break
        else:
            unknown.append(name)
    unknown = [name for name in unknown if name.split(".")[-1] not in COMPUTED]
    if unknown:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        raise UserError(f"{len(unknown)} names are not of the format '{table}': {shown}")
    renamed = {}
    for (number, indices), parts in found.items():
        sources, targets, transform = rules[number]
        names = [source.format(*indices) for source in sources]
        if len(parts) < len(names):
            missing = ", ".join(name for part, name in enumerate(names) if part not in parts)
            given = ", ".join(names[part] for part in parts)
            raise UserError(f"the format '{table}' has {given} only together with {missing}")
        values = transform(*(parts[part] for part in range(len(names))))
        values = values if len(targets) > 1 else (values,)
        for target, value in zip(targets, values, strict=True):
            renamed[target.format(*indices)] = value
    return renamed


def _names(module, suffixes):
    """All names of one entry of a rule's arrays."""
    return [module + suffix for suffix in ((suffixes,) if isinstance(suffixes, str) else suffixes)]
