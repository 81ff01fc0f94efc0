"""Key tables of transformers' ViT, Pixio, MAE, Swin, PVT v2 and ConvNeXt, bare and with their heads.

Transformers 5 renamed modules of ViT, MAE and Swin, but not the names in files: `from_pretrained` reads
names of version 4, and `save_pretrained` writes them. So the names of 4 are written, which both versions
open. Later rules of the tables read the names of state_dict() in 5.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np

from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.rules import (
    CONV,
    GRID_POSITIONS,
    LINEAR,
    NORM,
    POSITIONS,
    TABLE,
    ArrayRule,
    Buffers,
    Format,
    Rule,
    Transform,
    array,
    concatenate,
)

Block = Mapping[str, tuple[str, tuple[ArrayRule, ...]]]  # {their module: (ours, arrays)}


@cache  # the same arrays in two tables are one correspondence
def _joined(*names: str) -> tuple[ArrayRule, ...]:
    """The arrays of linear layers whose outputs are concatenated in a single one of ours."""
    count = len(names)
    kernel = Transform(
        lambda *parts: concatenate(*parts).T,
        lambda x: tuple(part.T for part in np.split(x, count, axis=1)),
        2,
    )
    bias = Transform(concatenate, lambda x: tuple(np.split(x, count)), 1)
    return (
        (tuple(f".{name}.weight" for name in names), "/kernel", kernel),
        (tuple(f".{name}.bias" for name in names), "/bias", bias),
    )


def _block(attention: str, qkv: tuple[str, ...], proj: str, fc1: str, fc2: str) -> Block:
    """The arrays of a transformer block."""
    return {
        "layernorm_before": ("norm1", NORM),
        attention: ("attn/qkv", _joined(*qkv)),
        proj: ("attn/proj", LINEAR),
        "layernorm_after": ("norm2", NORM),
        fc1: ("mlp/fc1", LINEAR),
        fc2: ("mlp/fc2", LINEAR),
    }


_PARTS_4 = (("query", "key", "value"), "attention.output.dense", "intermediate.dense", "output.dense")
_VIT_4, _SWIN_4 = _block("attention.attention", *_PARTS_4), _block("attention.self", *_PARTS_4)
_BLOCK_5 = _block("attention", ("q_proj", "k_proj", "v_proj"), "attention.o_proj", "mlp.fc1", "mlp.fc2")

_PVT_BLOCK = {
    "layer_norm_1": ("norm1", NORM),
    "attention.query": ("attn/q", LINEAR),
    "attention": ("attn/kv", _joined("key", "value")),
    "attention.spatial_reduction": ("attn/sr", CONV),
    "attention.layer_norm": ("attn/norm", NORM),
    "attention.proj": ("attn/proj", LINEAR),
    "layer_norm_2": ("norm2", NORM),
    "mlp.dense1": ("mlp/fc1", LINEAR),
    "mlp.dwconv.dwconv": ("mlp/dwconv", CONV),
    "mlp.dense2": ("mlp/fc2", LINEAR),
}
_CONVNEXT_BLOCK = {
    "dwconv": ("conv", CONV),
    "layernorm": ("norm", NORM),
    "pwconv1": ("mlp/fc1", LINEAR),
    "pwconv2": ("mlp/fc2", LINEAR),
    "layer_scale_parameter": ("gamma", array()),
}


def _blocks(theirs: str, ours: str, block: Block) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{name}", arrays)
        for part, (name, arrays) in block.items()
    )


def _positions(theirs: str, ours: str) -> Rule:
    return Rule(theirs, ours, (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),))


def _vit(prefix: str = "") -> tuple[Rule, ...]:
    """ViTModel and ViTMAEModel."""
    return (
        Rule(f"{prefix}embeddings.cls_token", "encoder/cls_token", array()),
        _positions(f"{prefix}embeddings.position_embeddings", "encoder/position"),
        Rule(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed", CONV),
        *_blocks(f"{prefix}encoder.layer", "encoder/blocks", _VIT_4),
        *_blocks(f"{prefix}layers", "encoder/blocks", _BLOCK_5),
        Rule(f"{prefix}layernorm", "encoder/norm", NORM),
    )


# A ViT with several class tokens (arXiv 2512.15715), under DINOv2's names, which files on the hub have.
_DINO_BLOCK = {
    "norm1": ("norm1", NORM),
    "attention.attention": ("attn/qkv", _joined("query", "key", "value")),
    "attention.output.dense": ("attn/proj", LINEAR),
    "norm2": ("norm2", NORM),
    "mlp.fc1": ("mlp/fc1", LINEAR),
    "mlp.fc2": ("mlp/fc2", LINEAR),
}
# `save_pretrained` of transformers 5.23 writes its norms with ViT's other names, see `_vit`.
PIXIO = (*_blocks("encoder.layer", "encoder/blocks", _DINO_BLOCK), *_vit())

MAE = (
    *_vit("vit."),
    Rule("decoder.mask_token", "mask_token", array()),
    _positions("decoder.decoder_pos_embed", "decoder/position"),
    Rule("decoder.decoder_embed", "decoder/embed", LINEAR),
    *_blocks("decoder.decoder_layers", "decoder/blocks", _VIT_4),
    *_blocks("decoder.decoder_layers", "decoder/blocks", _BLOCK_5),
    # `save_pretrained` of transformers 5.23 writes this name; only its `from_pretrained` reads it.
    *_blocks("decoder.decoder_encoder.layer", "decoder/blocks", _VIT_4),
    Rule("decoder.decoder_norm", "decoder/norm", NORM),
    Rule("decoder.decoder_pred", "decoder/pred", LINEAR),
)


def _swin(prefix: str = "") -> tuple[Rule, ...]:
    theirs, ours = f"{prefix}encoder.layers.{{}}", "encoder/stages_{}/blocks"
    table = "relative_position_bias_table"
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection", "encoder/stem/patch", CONV),
        Rule(f"{prefix}embeddings.norm", "encoder/stem/norm", NORM),
        # Transformers 5 only: the table of 4 has one entry more than there are tokens.
        Rule(
            f"{prefix}embeddings.position_embeddings", "encoder/position/pos_embed", array(GRID_POSITIONS)
        ),
        *_blocks(f"{theirs}.blocks", ours, {**_SWIN_4, f"attention.self.{table}": _table(table)}),
        *_blocks(
            f"{theirs}.blocks",
            ours,
            {**_BLOCK_5, f"attention.relative_position_bias.{table}": _table(table)},
        ),
        Rule(f"{theirs}.downsample.norm", "encoder/downsamples_{}/norm", NORM),
        Rule(f"{theirs}.downsample.reduction", "encoder/downsamples_{}/reduction", LINEAR[:1]),
        Rule(f"{prefix}layernorm", "encoder/norm", NORM),
    )


def _table(name: str) -> tuple[str, tuple[ArrayRule, ...]]:
    return f"attn/{name}", array(TABLE)


def _patch_embedding(stage: int) -> str:
    """Our patch embedding before a stage."""
    return f"encoder/downsamples_{stage - 1}" if stage else "encoder/stem"


def _pvt_v2(prefix: str = "") -> tuple[Rule, ...]:
    def stage_rules(stage: int) -> tuple[Rule, ...]:
        theirs, ours = f"{prefix}encoder.layers.{stage}", f"encoder/stages_{stage}"
        return (
            Rule(f"{theirs}.patch_embedding.proj", f"{_patch_embedding(stage)}/patch", CONV),
            Rule(f"{theirs}.patch_embedding.layer_norm", f"{_patch_embedding(stage)}/norm", NORM),
            *_blocks(f"{theirs}.blocks", f"{ours}/blocks", _PVT_BLOCK),
            Rule(f"{theirs}.layer_norm", f"{ours}/norm", NORM),
        )

    return tuple(rule for stage in range(4) for rule in stage_rules(stage))


def _convnext(norm: str, prefix: str = "") -> tuple[Rule, ...]:
    """norm: our module for their norm after the mean over the grid."""
    downsamples = (
        (f"{prefix}encoder.stages.{stage}.downsampling_layer", _patch_embedding(stage))
        for stage in (1, 2, 3)
    )
    return (
        Rule(f"{prefix}embeddings.patch_embeddings", "encoder/stem/patch", CONV),
        Rule(f"{prefix}embeddings.layernorm", "encoder/stem/norm", NORM),
        *(
            Rule(f"{theirs}.{index}", f"{ours}/{part}", arrays)
            for theirs, ours in downsamples
            for index, part, arrays in ((0, "norm", NORM), (1, "patch", CONV))
        ),
        *_blocks(f"{prefix}encoder.stages.{{}}.layers", "encoder/stages_{}/blocks", _CONVNEXT_BLOCK),
        Rule(f"{prefix}layernorm", norm, NORM),
    )


HEAD = Rule("classifier", "head", LINEAR)


def _format(
    name: str, family: str, table: tuple[Rule, ...], *buffers: Buffers, kind: str = "classifier"
) -> Format:
    # The pooler of a ViTModel is untrained.
    return Format(name, "hf", family, kind, table, buffers, ("relative_position_index", "pooler"))


# "..._model": the bare backbones, such as ViTModel.
FORMATS = (
    _format("hf_vit_mae", "vit", MAE, kind="mae"),
    _format("hf_vit", "vit", (*_vit("vit."), HEAD)),
    _format("hf_vit_model", "vit", _vit()),
    _format("hf_pixio_model", "vit", PIXIO),
    _format("hf_swin", "swin", (*_swin("swin."), HEAD), relative_indices),
    _format("hf_swin_model", "swin", _swin(), relative_indices),
    _format("hf_pvt_v2", "pvt_v2", (*_pvt_v2("pvt_v2."), HEAD)),
    _format("hf_pvt_v2_model", "pvt_v2", _pvt_v2()),
    _format("hf_convnext", "convnext", (*_convnext("pooling/norm", "convnext."), HEAD)),
    _format("hf_convnext_model", "convnext", _convnext("encoder/norm")),
)
