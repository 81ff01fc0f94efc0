"""Key tables of timm's ViT, BEiT, Swin, PVT v2 and ConvNeXt.

Norms have fixed epsilons there: 1e-6 in ViT, BEiT and PVT v2, except 1e-5 after PVT v2's patch embeddings
and for its keys, and 1e-5 in Swin. Ours have the same unless a config says otherwise; ten times or a tenth
of an epsilon moves outputs by some 1e-5 of the largest.
"""

import numpy as np

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats.official import keys as official
from fastmim_jax.export.formats.official.convnets import CONVNEXT
from fastmim_jax.export.formats.official.pvt_v2 import PVT_V2
from fastmim_jax.export.formats.rules import LINEAR, NORM, Format, Rule, Transform, array


def _pointwise(x: np.ndarray) -> np.ndarray:
    """(out, in) or (out, in, 1, 1) -> (in, out)."""
    if x.ndim not in (2, 4) or x.shape[2:] not in ((), (1, 1)):
        raise FormatMismatch(f"an array of shape {x.shape}, expected a linear layer or a 1 x 1 convolution")
    return x.reshape(x.shape[:2]).T


# A linear layer, or a 1 x 1 convolution in the small ConvNeXts.
POINTWISE = ((".weight", "/kernel", Transform(_pointwise, np.transpose)), LINEAR[1])
FC_NORM = Rule("fc_norm", "pooling/norm", NORM)

VIT = (
    *official.VIT,
    *(Rule(f"blocks.{{}}.ls{i}.gamma", f"encoder/blocks/{{}}/scale{i}/gamma", array()) for i in (1, 2)),
)


def _merged_first(rule: Rule) -> tuple[Rule, ...]:
    """Rules of the official Swin as timm's, which merges patches at the start of a stage."""
    if not rule.theirs.startswith("layers.{}.downsample"):
        return (rule,)
    return tuple(
        Rule(rule.theirs.format(stage), rule.ours.format(stage - 1), rule.arrays) for stage in (1, 2, 3)
    )


PVT_V2_PARTS = {  # ours -> timm's, where they differ
    "stem.": "patch_embed.",
    **{f"downsamples_{stage - 1}.": f"stages.{stage}.downsample." for stage in (1, 2, 3)},
    ".patch": ".proj",
    "stages_": "stages.",
}


def _pvt_v2_rule(rule: Rule) -> Rule:
    """A rule of the official PVT v2 with timm's name, which is ours except for the patch embeddings."""
    name = rule.ours.removeprefix("encoder/").replace("/", ".")
    for ours, theirs in PVT_V2_PARTS.items():
        name = name.replace(ours, theirs)
    return rule._replace(theirs=name)


def _convnext_rules(rule: Rule) -> tuple[Rule, ...]:
    """Rules of the official ConvNeXt as timm's, with both norms that timm's can end with."""
    if rule.ours == "encoder/norm":
        return Rule("norm_pre", "encoder/norm", NORM), Rule("head.norm", "pooling/norm", NORM)
    return (rule._replace(arrays=POINTWISE) if rule.arrays == LINEAR else rule,)


SWIN = (*(new for rule in official.SWIN for new in _merged_first(rule)), Rule("head.fc", "head", LINEAR))
TIMM_CONVNEXT = (
    *(new for rule in CONVNEXT for new in _convnext_rules(rule)),
    Rule("head.fc", "head", LINEAR),
)


def _format(name: str, family: str, table: tuple[Rule, ...]) -> Format:
    return Format(f"timm_{name}", "timm", family, "classifier", table)


FORMATS = (
    _format("vit", "vit", official.classifying(VIT, FC_NORM)),
    # A ViT with relative positions; SimMIM's code has BEiT's names.
    _format("beit", "vit", official.classifying(official.SIMMIM_VIT, FC_NORM)),
    _format("swin", "swin", SWIN),
    _format("pvt_v2", "pvt_v2", official.classifying(tuple(_pvt_v2_rule(rule) for rule in PVT_V2))),
    _format("convnext", "convnext", TIMM_CONVNEXT),
)
