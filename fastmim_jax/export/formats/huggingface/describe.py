"""The config.json of transformers' models, written for our models."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import flax.linen as nn

from fastmim_jax.data.device import channel_statistics
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import MAESpec, ModelSpec
from fastmim_jax.export.formats.windows import one_window
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.decoder import HEAD_WIDTH, Decoder
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT

Config = dict[str, Any]
Size = tuple[int, int]
SWIN_EPSILON = 1e-5  # of its norms outside of blocks, whatever the config says
CLASSIFIER = "ForImageClassification"  # end of the names of classifier classes


def describe(spec: ModelSpec) -> Config:
    """Return the config.json of a model.

    The norms of PVT v2 all have the blocks' epsilon in transformers; ours, as published, have 1e-5 in the
    patch embeddings and for the keys.

    Raises:
      UserError: transformers has no such model.
    """
    if spec.mae:
        return _describe_mae(spec, spec.mae)
    family, pooling = _find_family(spec.encoder), spec.head_pooling
    if pooling and not family.poolings:
        raise UserError(f"transformers' {family.model} has no classifier: type --to=official")
    if pooling not in (None, *family.poolings):
        raise UserError(
            f"transformers' {family.model} has no classifier with '{pooling}', only with "
            f"{' or '.join(family.poolings)}: type --to=timm"
        )
    config = {
        "architectures": [family.model + (CLASSIFIER if pooling else "Model")],
        "model_type": family.model_type,
        **_common(spec),
        **family.sizes(spec.encoder, spec.image_size),
    }
    if pooling:
        config["num_labels"] = len(spec.classes)
    if spec.classes:
        names = dict(enumerate(spec.classes))
        config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    return config


def _describe_mae(spec: ModelSpec, mae: MAESpec) -> Config:
    """The config.json of ViTMAEForPreTraining."""
    encoder, (height, width) = spec.encoder, spec.image_size
    if not isinstance(encoder, ViT):
        raise UserError("transformers has an MAE of a ViT only: type --to=official")
    if height != width:
        raise UserError(
            f"transformers' MAE takes square images, these are {height} x {width}: type --to=official"
        )
    decoder = Decoder(0, **mae.decoder)
    if not decoder.depth:
        raise UserError(
            "transformers' MAE maps the encoder's outputs to the decoder's width, a decoder of depth 0 "
            "does not: type --to=official"
        )
    if not math.isclose(decoder.epsilon, encoder.epsilon):
        raise UserError(
            f"transformers' MAE has one epsilon for all norms, these are {encoder.epsilon} and "
            f"{decoder.epsilon} in the decoder: type --to=official"
        )
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **_common(spec),
        **_vit(encoder, spec.image_size),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads or max(decoder.width // HEAD_WIDTH, 1),
        "decoder_intermediate_size": int(decoder.width * decoder.mlp_ratio),
        "mask_ratio": mae.mask_ratio,
        "norm_pix_loss": mae.normalize_target,
    }


def preprocessor_files(spec: ModelSpec) -> dict[str, Config]:
    """Return {"preprocessor_config.json": ...}, which resizes images to the model's own size."""
    height, width = spec.image_size
    mean, std = channel_statistics(spec.channels)
    factor, offset = spec.rescaling
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": factor,
        "do_normalize": True,
        "image_mean": [float(x) + offset for x in spec.mean or mean],
        "image_std": list(map(float, spec.std or std)),
    }
    return {"preprocessor_config.json": config}


def folder_code(description: Mapping[str, Any], path: Path) -> str:
    """Return the Python lines that open a folder with transformers."""
    (name,) = description["architectures"]
    return f"from transformers import {name}\n\nmodel = {name}.from_pretrained('{path}')"


class Family(NamedTuple):
    """One of transformers' model families.

    model: start of the names of its classes. sizes: (encoder, image size) -> entries of config.json.
    poolings: keys of `heads.POOLINGS` that its classifier can be.
    """

    model: str
    model_type: str
    sizes: Callable[[nn.Module, Size], Config]
    poolings: tuple[str, ...]


def _find_family(encoder: nn.Module) -> Family:
    if isinstance(encoder, ViT) and encoder.class_tokens > 1:
        return PIXIO
    for kind, family in FAMILIES.items():
        if isinstance(encoder, kind):
            return family
    raise UserError(f"transformers has no {type(encoder).__name__} such as ours: type --to=official")


def _common(spec: ModelSpec) -> Config:
    height, width = spec.image_size
    return {
        "num_channels": spec.channels,
        "image_size": height if height == width else [height, width],
        "layer_norm_eps": spec.encoder.epsilon,
        "hidden_act": "gelu",
    }


def _vit(encoder: nn.Module, image_size: Size) -> Config:
    if encoder.class_tokens > 1:
        raise UserError(
            f"transformers' MAE has one class token, this has {encoder.class_tokens}: type --to=official"
        )
    return _vit_sizes(encoder)


def _pixio(encoder: nn.Module, image_size: Size) -> Config:
    sizes = _vit_sizes(encoder)
    if not float(encoder.mlp_ratio).is_integer():
        raise UserError(
            f"transformers' Pixio has an integer mlp_ratio, this has {encoder.mlp_ratio}: "
            "type --to=official"
        )
    del sizes["intermediate_size"]
    return {**sizes, "mlp_ratio": int(encoder.mlp_ratio), "n_cls_tokens": encoder.class_tokens}


def _vit_sizes(encoder: nn.Module) -> Config:
    if encoder.relative_positions != "none":
        raise UserError("transformers' ViT has no relative positions: type --to=official")
    if encoder.layer_scale is not None:
        raise UserError("transformers' ViT has no layer scale: type --to=timm")
    if not encoder.class_token:
        raise UserError("transformers' ViT always has a class token, this one has none: type --to=timm")
    if encoder.positions == "none":
        raise UserError(
            "transformers' ViT always has position embeddings, this one has none: type --to=timm"
        )
    return {
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": int(encoder.width * encoder.mlp_ratio),
        "qkv_bias": True,
    }


def _swin(encoder: nn.Module, image_size: Size) -> Config:
    if not math.isclose(encoder.epsilon, SWIN_EPSILON):
        raise UserError(
            f"transformers' Swin has norms with epsilon {SWIN_EPSILON}, these have {encoder.epsilon}: "
            "type --to=official"
        )
    return {
        "patch_size": encoder.embed_stride,
        "embed_dim": encoder.width,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.heads),
        "window_size": _window(encoder, image_size),
        "mlp_ratio": encoder.mlp_ratio,
        "drop_path_rate": encoder.drop_path,
        "use_absolute_embeddings": encoder.positions != "none",
        "qkv_bias": True,
    }


def _window(encoder: nn.Module, image_size: Size) -> int:
    """Side of the windows, which must be square and the same in all stages."""

    def refuse(reason: str) -> NoReturn:
        raise UserError(
            f"transformers' Swin {reason}: type --to=official, or train with another window or image size"
        )

    window = one_window(encoder, image_size, refuse)
    for stage, depth in enumerate(encoder.depths):
        shifted = {side // (encoder.embed_stride * 2**stage) > window for side in image_size}
        if depth > 1 and len(shifted) > 1:
            refuse("shifts no windows along one axis only, as ours does if the other is one window long")
    return window


def _pvt_v2(encoder: nn.Module, image_size: Size) -> Config:
    return {
        "num_encoder_blocks": len(encoder.depths),
        "hidden_sizes": list(encoder.widths),
        "depths": list(encoder.depths),
        "num_attention_heads": list(encoder.heads),
        "mlp_ratios": list(encoder.mlp_ratios),
        "linear_attention": encoder.attention == "pooled",
        "drop_path_rate": encoder.drop_path,
        "qkv_bias": True,
    }


def _convnext(encoder: nn.Module, image_size: Size) -> Config:
    return {
        "patch_size": encoder.embed_stride,
        "num_stages": len(encoder.depths),
        "hidden_sizes": list(encoder.widths),
        "depths": list(encoder.depths),
        "layer_scale_init_value": encoder.layer_scale or 1e-6,  # with 0 transformers makes no such array
        "drop_path_rate": encoder.drop_path,
    }


PIXIO = Family("Pixio", "pixio", _pixio, ())
FAMILIES = {
    ViT: Family("ViT", "vit", _vit, ("cls",)),
    Swin: Family("Swin", "swin", _swin, ("norm_pool", "pool")),
    PVTv2: Family("PvtV2", "pvt_v2", _pvt_v2, ("pool",)),
    ConvNeXt: Family("ConvNext", "convnext", _convnext, ("pool_norm",)),
}
