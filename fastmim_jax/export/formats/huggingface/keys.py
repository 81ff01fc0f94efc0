"""How Hugging Face's transformers write ViT, MAE, Swin, PVT v2 and ConvNeXt, bare and with their heads.

Transformers 5 renamed modules of ViT, MAE and Swin, but not what is in files: `from_pretrained` renames the
names of 4 while it reads, and `save_pretrained` renames back. So those of 4 are written here, which either
version opens; the tables read those of state_dict() in 5 as well, with rules that stand behind the others.
"""

from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.rules import (
    CONV,
    GRID_POSITIONS,
    LINEAR,
    NORM,
    POSITIONS,
    SQUARE,
    Format,
    Rule,
    Transform,
    array,
)


def _joined(*names):
    """The arrays of linear layers whose outputs stand one after another in a single one of ours."""
    count = len(names)
    kernel = Transform(
        lambda *parts: np.concatenate(parts).T,
        lambda x: tuple(part.T for part in np.split(x, count, axis=1)),
    )
    bias = Transform(lambda *parts: np.concatenate(parts), lambda x: tuple(np.split(x, count)))
    return (
        (tuple(f".{name}.weight" for name in names), "/kernel", kernel),
        (tuple(f".{name}.bias" for name in names), "/bias", bias),
    )


def _block(attention, qkv, proj, fc1, fc2):
    """{their module: (ours, arrays)} of a transformer block."""
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


def _blocks(theirs, ours, block):
    return tuple(
        Rule(f"{theirs}.{{}}.{part}", f"{ours}/{{}}/{name}", arrays)
        for part, (name, arrays) in block.items()
    )


def _positions(theirs, ours):
    return Rule(theirs, ours, (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),))


def _vit(prefix=""):
    """ViTModel and ViTMAEModel."""
    return (
        Rule(f"{prefix}embeddings.cls_token", "encoder/cls_token", array()),
        _positions(f"{prefix}embeddings.position_embeddings", "encoder/position"),
        Rule(f"{prefix}embeddings.patch_embeddings.projection", "encoder/patch_embed", CONV),
        *_blocks(f"{prefix}encoder.layer", "encoder/blocks", _VIT_4),
        *_blocks(f"{prefix}layers", "encoder/blocks", _BLOCK_5),
        Rule(f"{prefix}layernorm", "encoder/norm", NORM),
    )


MAE = (
    *_vit("vit."),
    Rule("decoder.mask_token", "mask_token", array()),
    _positions("decoder.decoder_pos_embed", "decoder/position"),
    Rule("decoder.decoder_embed", "decoder/embed", LINEAR),
    *_blocks("decoder.decoder_layers", "decoder/blocks", _VIT_4),
    *_blocks("decoder.decoder_layers", "decoder/blocks", _BLOCK_5),
    # `save_pretrained` of 5.23 renames too much here; its own `from_pretrained` reads it.
    *_blocks("decoder.decoder_encoder.layer", "decoder/blocks", _VIT_4),
    Rule("decoder.decoder_norm", "decoder/norm", NORM),
    Rule("decoder.decoder_pred", "decoder/pred", LINEAR),
)


def _swin(prefix=""):
    theirs, ours = f"{prefix}encoder.layers.{{}}", "encoder/stages_{}/blocks"
    table = "relative_position_bias_table"
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection", "encoder/stem/patch", CONV),
        Rule(f"{prefix}embeddings.norm", "encoder/stem/norm", NORM),
        # Transformers 5 only: the table of 4 has one entry too many for its own cells.
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


def _table(name):
    return f"attn/{name}", array(SQUARE)


def _halving(stage):
    """Our module before a stage."""
    return f"encoder/downsamples_{stage - 1}" if stage else "encoder/stem"


def _pvt_v2(prefix=""):
    def of_stage(stage):
        theirs, ours = f"{prefix}encoder.layers.{stage}", f"encoder/stages_{stage}"
        return (
            Rule(f"{theirs}.patch_embedding.proj", f"{_halving(stage)}/patch", CONV),
            Rule(f"{theirs}.patch_embedding.layer_norm", f"{_halving(stage)}/norm", NORM),
            *_blocks(f"{theirs}.blocks", f"{ours}/blocks", _PVT_BLOCK),
            Rule(f"{theirs}.layer_norm", f"{ours}/norm", NORM),
        )

    return tuple(rule for stage in range(4) for rule in of_stage(stage))


def _convnext(norm, prefix=""):
    """norm: our module that is theirs behind the mean of the cells."""
    halvings = (
        (f"{prefix}encoder.stages.{stage}.downsampling_layer", _halving(stage)) for stage in (1, 2, 3)
    )
    return (
        Rule(f"{prefix}embeddings.patch_embeddings", "encoder/stem/patch", CONV),
        Rule(f"{prefix}embeddings.layernorm", "encoder/stem/norm", NORM),
        *(
            Rule(f"{theirs}.{place}", f"{ours}/{part}", arrays)
            for theirs, ours in halvings
            for place, part, arrays in ((0, "norm", NORM), (1, "patch", CONV))
        ),
        *_blocks(f"{prefix}encoder.stages.{{}}.layers", "encoder/stages_{}/blocks", _CONVNEXT_BLOCK),
        Rule(f"{prefix}layernorm", norm, NORM),
    )


HEAD = Rule("classifier", "head", LINEAR)


def _format(name, family, table, *buffers, kind="classifier"):
    # A ViTModel may have a pooler, which nothing was trained for.
    return Format(name, "hf", family, kind, table, buffers, ("relative_position_index", "pooler"))


# "..._model" are the names of the bare backbones, such as ViTModel.
FORMATS = (
    _format("hf_vit_mae", "vit", MAE, kind="mae"),
    _format("hf_vit", "vit", (*_vit("vit."), HEAD)),
    _format("hf_vit_model", "vit", _vit()),
    _format("hf_swin", "swin", (*_swin("swin."), HEAD), relative_indices),
    _format("hf_swin_model", "swin", _swin(), relative_indices),
    _format("hf_pvt_v2", "pvt_v2", (*_pvt_v2("pvt_v2."), HEAD)),
    _format("hf_pvt_v2_model", "pvt_v2", _pvt_v2()),
    _format("hf_convnext", "convnext", (*_convnext("pooling/norm", "convnext."), HEAD)),
    _format("hf_convnext_model", "convnext", _convnext("encoder/norm")),
)

EPSILON_TOLERANCE = 1e-5  # between epsilons of norms: variances are near 1, so results differ by half of it
CLASSIFIER = "ForImageClassification"  # what the names of their classes end with


class _Told(NamedTuple):
    """What config.json tells of a model.

    backbone: {our key: (theirs, its default)}. expected: what ours are always like. epsilon: of our norms.
    pooling: ours, of the classifier.
    """

    backbone: dict
    expected: dict
    epsilon: float
    pooling: str


_VIT_TOLD = _Told({"heads": ("num_attention_heads", 12)}, {"qkv_bias": True}, 1e-6, "cls")
_TOLD = {
    "vit": _VIT_TOLD,
    "vit_mae": _VIT_TOLD,
    "swin": _Told(
        {"heads": ("num_heads", (3, 6, 12, 24)), "window": ("window_size", 7)},
        {"qkv_bias": True, "patch_size": 4},
        1e-5,
        "pool",
    ),
    "pvt_v2": _Told(
        {"heads": ("num_attention_heads", (1, 2, 5, 8))},
        {"qkv_bias": True, "patch_sizes": (7, 3, 3, 3), "strides": (4, 2, 2, 2), "sr_ratios": (8, 4, 2, 1)},
        1e-6,
        "pool",
    ),
    "convnext": _Told({}, {"patch_size": 4}, 1e-6, "pool_norm"),
}


def settings(config):
    """What a config.json tells that the arrays do not.

    Args:
      config: config.json as a dict.

    Returns:
      {"backbone": keys of `config.model.backbone`, "image_size": (height, width)}; of a classifier
      "pooling", ours, and "classes", their names; of an MAE "decoder": {"heads"}, "mask_ratio" and
      "normalize_target" as of `config.method`.

    Raises:
      UserError: another kind of model, or one that ours cannot be like.
    """
    told = _TOLD.get(config.get("model_type"))
    if told is None:
        raise UserError(
            f"config.json is of a '{config.get('model_type')}', expected one of {', '.join(_TOLD)}: "
            "give the folder of such a model"
        )
    for key, expected in {**told.expected, "hidden_act": "gelu"}.items():
        _refuse_other(key, _value(config, key, expected), expected)
    epsilon = config.get("layer_norm_eps", told.epsilon)
    if abs(epsilon - told.epsilon) > EPSILON_TOLERANCE:
        _refuse_other("layer_norm_eps", epsilon, told.epsilon)
    image_size = config.get("image_size", 224)
    if isinstance(image_size, dict):  # of PVT v2 in transformers 4
        image_size = image_size["height"], image_size["width"]
    found = {
        "backbone": {ours: _value(config, *theirs) for ours, theirs in told.backbone.items()},
        "image_size": (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size),
    }
    name = (config.get("architectures") or [""])[0]
    if name.endswith(CLASSIFIER):
        found.update(pooling=told.pooling, classes=_classes(config))
    if name == "ViTMAEForPreTraining":
        found.update(
            decoder={"heads": config.get("decoder_num_attention_heads", 16)},
            mask_ratio=config.get("mask_ratio", 0.75),
            normalize_target=config.get("norm_pix_loss", False),
        )
    return found


def _classes(config):
    """Their names, in order; a config that names none has two."""
    numbered = {index: f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    named = config.get("id2label") or numbered
    return [named[index] for index in sorted(named, key=int)]


def _value(config, key, default):
    value = config.get(key, default)
    return tuple(value) if isinstance(value, list) else value


def _refuse_other(key, value, expected):
    if value != expected:
        raise UserError(
            f"config.json has {key} {value}, and no backbone here has another than {expected}: "
            "give a model with that"
        )
