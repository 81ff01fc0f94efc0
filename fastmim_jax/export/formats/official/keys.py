"""Key tables of the published FastMIM, MAE, MixMIM and SimMIM, pre-trained and fine-tuned."""

from fastmim_jax.export.formats.buffers import attention_masks, batch_counts, relative_indices
from fastmim_jax.export.formats.official.convnets import BATCH_NORM, CMT, CONVNEXT
from fastmim_jax.export.formats.official.pvt_v2 import PVT_V2
from fastmim_jax.export.formats.rules import (
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
    TABLE,
    ArrayRule,
    Buffers,
    Format,
    Rule,
    array,
)

Table = tuple[Rule, ...]
QKV = (("attn.qkv", LINEAR),)


def transformer_blocks(
    theirs: str, ours: str, qkv: tuple[tuple[str, tuple[ArrayRule, ...]], ...] = QKV
) -> Table:
    """Return the rules of timm's ViT blocks; ours have the same names inside.

    qkv: (name, arrays) of the projection to queries, keys and values.
    """
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


VIT_POSITIONS = Rule("pos_embed", "encoder/position", (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),))
VIT = (
    Rule("cls_token", "encoder/cls_token", array()),
    Rule("patch_embed.proj", "encoder/patch_embed", CONV),
    *transformer_blocks("blocks", "encoder/blocks"),
    Rule("norm", "encoder/norm", NORM),
    VIT_POSITIONS,
)
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
        array(TABLE),
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
    # Partial reconstruction has no published names.
    *(
        Rule(f"decoder_fill.{{}}.{name}", f"reconstruct/fill/stage_{{}}/{name}", array())
        for name in ("kernel", "thrown_token", "position_scale")
    ),
)


SIMMIM = (
    Rule("encoder.mask_token", "mask_token", array()),
    Rule("decoder.0", "pred", ((".weight", "/kernel", SHUFFLED_KERNEL), (".bias", "/bias", SHUFFLED_BIAS))),
)


def inside_encoder(backbone: Table) -> Table:
    """Return the rules of a backbone that is the "encoder" of a published method."""
    return tuple(rule._replace(theirs=f"encoder.{rule.theirs}") for rule in backbone)


def pretraining(backbone: Table) -> Table:
    """Return the rules of a published FastMIM model, except for ViT."""
    return (Rule("mask_token", "mask_token", array(PIXEL)), *inside_encoder(backbone), *DECODER)


def classifying(backbone: Table, *pooling: Rule) -> Table:
    """Return the rules of a published classifier: a backbone, the layers of its pooling, and a head."""
    return (*backbone, *pooling, Rule("head", "head", LINEAR))


CLASSIFIED_VIT = classifying(VIT, Rule("fc_norm", "pooling/norm", NORM))
ABSOLUTE_POSITIONS = Rule("absolute_pos_embed", "encoder/position/pos_embed", array(GRID_POSITIONS))
MIXMIM = (*SWIN, ABSOLUTE_POSITIONS)
MAE_POSITIONS = Rule(
    "decoder_pos_embed", "decoder/position", (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),)
)
MIXMIM_POSITIONS = Rule("decoder_pos_embed", "decoder/position/pos_embed", array(GRID_POSITIONS))
SWIN_BUFFERS = (relative_indices, attention_masks)


def _official(
    name: str,
    family: str,
    kind: str,
    table: Table,
    *buffers: Buffers,
    distinctive: tuple[str, ...] = (),
) -> Format:
    return Format(name, "official", family, kind, table, buffers, distinctive=distinctive)


FORMATS = (
    _official(
        "fastmim_vit", "vit", "fastmim", (Rule("mask_token", "mask_token", array(PIXEL)), *VIT, *DECODER)
    ),
    _official("fastmim_swin", "swin", "fastmim", pretraining(SWIN), *SWIN_BUFFERS),
    _official("fastmim_pvtv2", "pvt_v2", "fastmim", pretraining(PVT_V2)),
    _official("fastmim_cmt", "cmt", "fastmim", pretraining(CMT), batch_counts),
    _official("fastmim_convnext", "convnext", "fastmim", pretraining(CONVNEXT)),
    _official("fastmim_vit_classifier", "vit", "classifier", CLASSIFIED_VIT),
    _official(
        "fastmim_swin_classifier",
        "swin",
        "classifier",
        classifying(SWIN, Rule("fc_norm", "pooling/norm", NORM)),
        *SWIN_BUFFERS,
    ),
    _official("fastmim_pvtv2_classifier", "pvt_v2", "classifier", classifying(PVT_V2)),
    _official(
        "fastmim_cmt_classifier",
        "cmt",
        "classifier",
        classifying(CMT, Rule("_fc", "pooling/fc", CONV), Rule("_bn", "pooling/norm", BATCH_NORM)),
        batch_counts,
    ),
    _official(
        "mae_vit",
        "vit",
        "mae",
        (Rule("mask_token", "mask_token", array()), *VIT, MAE_POSITIONS, *DECODER),
        distinctive=("decoder_pos_embed",),
    ),
    _official(
        "mixmim",
        "mixmim",
        "mixmim",
        (Rule("mask_token", "mask_token", array(MIX_TOKEN)), *MIXMIM, MIXMIM_POSITIONS, *DECODER),
        relative_indices,
    ),
    _official(
        "mixmim_classifier",
        "mixmim",
        "classifier",
        classifying(MIXMIM),
        relative_indices,
        distinctive=("absolute_pos_embed",),
    ),
    _official("simmim_vit", "vit", "simmim", (*SIMMIM, *inside_encoder(SIMMIM_VIT)), relative_indices),
    _official(
        "simmim_swin",
        "swin",
        "simmim",
        (*SIMMIM, *inside_encoder((*SWIN, ABSOLUTE_POSITIONS))),
        *SWIN_BUFFERS,
    ),
    _official(
        "simmim_vit_classifier",
        "vit",
        "classifier",
        classifying(SIMMIM_VIT, Rule("fc_norm", "pooling/norm", NORM)),
        relative_indices,
    ),
    _official(
        "swin_classifier",
        "swin",
        "classifier",
        classifying((*SWIN, ABSOLUTE_POSITIONS)),
        *SWIN_BUFFERS,
        distinctive=("attn_mask",),
    ),
)
