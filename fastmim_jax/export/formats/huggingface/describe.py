"""Hugging Face's models of our backbones: their config.json, the real modules, and what those see."""

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch, import_transformers
from fastmim_jax.export.formats.huggingface.keys import CLASSIFIER
from fastmim_jax.export.formats.windows import one_window
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.decoder import HEAD_WIDTH, Decoder
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT

SWIN_EPSILON = 1e-5  # of its norms outside of blocks, whatever the config says


def describe(encoder, image_size, channels=3, pooling=None, classes=0):
    """The config.json of the same architecture, without names of classes (`id2label`).

    The norms of PVT v2 all have the blocks' epsilon there; ours, as published, have 1e-5 where patches
    and keys are made.

    Args:
      encoder: a backbone, a Flax module.
      image_size: (height, width) in pixels.
      pooling: a key of `fastmim_jax.models.heads.POOLINGS`; None for a bare backbone, or with classes for
        the published one.
      classes: number of them, 0 for no head.

    Raises:
      UserError: transformers has no such model.
    """
    family = _family(encoder)
    if classes:
        pooling = pooling or encoder.pooling
    if pooling not in (None, *family.poolings):
        raise UserError(
            f"transformers' {family.model} has no classifier with '{pooling}', only with "
            f"{' or '.join(family.poolings)}: type --to=timm"
        )
    return {
        "architectures": [family.model + (CLASSIFIER if pooling else "Model")],
        "model_type": family.model_type,
        **_common(encoder, image_size, channels),
        **family.sizes(encoder, image_size),
        **({"num_labels": classes} if pooling else {}),
    }


def describe_mae(encoder, decoder, image_size, channels=3, mask_ratio=0.75, normalize_target=True):
    """The config.json of ViTMAEForPreTraining for the same MAE.

    Args:
      encoder, image_size, channels: as of `describe`.
      decoder: keyword arguments of our Decoder; of them width, depth, heads, mlp_ratio, epsilon count.
      mask_ratio, normalize_target: as of `config.method`.

    Raises:
      UserError: transformers has no such model.
    """
    if not isinstance(encoder, ViT):
        raise UserError("transformers has an MAE of a ViT only: type --to=official")
    if image_size[0] != image_size[1]:
        raise UserError(
            f"transformers' MAE takes square images, these are {image_size[0]} x {image_size[1]}: "
            "type --to=official"
        )
    decoder = Decoder(0, **decoder)
    if not decoder.depth:
        raise UserError(
            "transformers' MAE maps what is encoded to the decoder's width, which a decoder of depth 0 "
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
        **_common(encoder, image_size, channels),
        **_vit(encoder, image_size),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads or max(decoder.width // HEAD_WIDTH, 1),
        "decoder_intermediate_size": int(decoder.width * decoder.mlp_ratio),
        "mask_ratio": mask_ratio,
        "norm_pix_loss": normalize_target,
    }


def build(description, state=None):
    """The real model, a torch.nn.Module in eval mode.

    Args:
      description: config.json, as `describe` gives it.
      state: {name: array}, as in a file; None for random weights.

    Raises:
      UserError: torch or transformers is not installed, or the names and shapes are not the model's.
    """
    torch, transformers = import_torch(), import_transformers()
    name = (description.get("architectures") or ["no architecture"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UserError(f"config.json tells {name}, which transformers has no class for: give its own")
    config = kind.config_class.from_dict(description)
    # Its pooler is a layer after cls that only some were trained with; what it gives is not looked at.
    pooled = any(part.startswith("pooler.") for part in state or ())
    options = {"add_pooling_layer": pooled} if name == "ViTModel" else {}
    if state is None:
        return kind(config, **options).eval()
    arrays = {key: torch.from_numpy(np.array(x)) for key, x in state.items()}
    options.update(config=config, state_dict=arrays, output_loading_info=True, ignore_mismatched_sizes=True)
    with _quiet(transformers.utils.logging):
        model, found = kind.from_pretrained(None, **options)
    wrong = {
        "missing": found["missing_keys"],
        "unexpected": found["unexpected_keys"],
        "of another shape": [mismatch[0] for mismatch in found["mismatched_keys"]],
    }
    told = [f"{', '.join(sorted(names)[:5])} {how}" for how, names in wrong.items() if names]
    if told:
        raise UserError(f"the arrays are not those of {name}: {'; '.join(told)}; give its own config.json")
    return model.eval()


def look(model, images, noise=None):
    """What a model of `build` gives.

    Args:
      images: (B, H, W, C) float32, normalised.
      noise: (B, N) float32, of MAE: what decides which patches are hidden; None leaves its decoder out.

    Returns:
      {"block 1" or "stage 1", ...: (B, h, w, D), the last behind the final norm; "cls": (B, D) of a ViT;
      "logits": (B, classes) of a classifier; "prediction": (B, h, w, P), "mask": (B, h, w), 1 = hidden, and
      "loss": () of an MAE with noise}, NumPy arrays.
    """
    torch = import_torch()
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    with torch.no_grad():
        found = LOOKS[model.config.model_type](model, pixels)
        if noise is not None:
            found |= _reconstruction(model, pixels, torch.from_numpy(np.array(noise)))
    return {name: x.numpy() for name, x in found.items()}


class Family(NamedTuple):
    """One of theirs.

    model: what the names of its classes begin with. sizes: (encoder, image_size) -> entries of config.json.
    poolings: of ours, that its classifier is.
    """

    model: str
    model_type: str
    sizes: Callable
    poolings: tuple[str, ...]


def _family(encoder):
    for kind, family in FAMILIES.items():
        if isinstance(encoder, kind):
            return family
    raise UserError(f"transformers has no {type(encoder).__name__} such as ours: type --to=official")


def _common(encoder, image_size, channels):
    height, width = image_size
    return {
        "num_channels": channels,
        "image_size": height if height == width else [height, width],
        "layer_norm_eps": encoder.epsilon,
        "hidden_act": "gelu",
    }


def _vit(encoder, image_size):
    if encoder.relative_positions != "none":
        raise UserError("transformers' ViT has no relative positions: type --to=official")
    if encoder.layer_scale is not None:
        raise UserError("transformers' ViT has no layer scale: type --to=timm")
    if encoder.positions == "none":
        raise UserError("transformers' ViT has positions always, this one has none: type --to=timm")
    return {
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": int(encoder.width * encoder.mlp_ratio),
        "qkv_bias": True,
    }


def _swin(encoder, image_size):
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


def _window(encoder, image_size):
    """Side of the windows, which must be square and the same in all stages."""

    def refuse(lack):
        raise UserError(
            f"transformers' Swin {lack}: type --to=official, or train with another window or image size"
        )

    window = one_window(encoder, image_size, refuse)
    for stage, depth in enumerate(encoder.depths):
        shifted = {side // (encoder.embed_stride * 2**stage) > window for side in image_size}
        if depth > 1 and len(shifted) > 1:
            refuse("shifts no windows along one axis only, as ours where the other is one window long")
    return window


def _pvt_v2(encoder, image_size):
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


def _convnext(encoder, image_size):
    return {
        "patch_size": encoder.embed_stride,
        "num_stages": len(encoder.depths),
        "hidden_sizes": list(encoder.widths),
        "depths": list(encoder.depths),
        "layer_scale_init_value": encoder.layer_scale or 1e-6,  # with 0 there would be no such array
        "drop_path_rate": encoder.drop_path,
    }


FAMILIES = {
    ViT: Family("ViT", "vit", _vit, ("cls",)),
    Swin: Family("Swin", "swin", _swin, ("norm_pool", "pool")),
    PVTv2: Family("PvtV2", "pvt_v2", _pvt_v2, ("pool",)),
    ConvNeXt: Family("ConvNext", "convnext", _convnext, ("pool_norm",)),
}


@contextlib.contextmanager
def _quiet(logging):
    """Without transformers' bars and reports: what is missing is told in one sentence."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _look_vit(model, pixels):
    out = model(pixels, output_hidden_states=True)
    return _blocks(model, out, pixels) | _logits(out)


def _look_mae(model, pixels):
    """With all patches in their places, which takes a mask of none of them."""
    torch, base = import_torch(), model.base_model
    config = base.embeddings.config
    patches = base.embeddings.position_embeddings.shape[1] - 1
    ratio, config.mask_ratio = config.mask_ratio, 0.0
    try:
        noise = torch.linspace(0, 1, patches).expand(len(pixels), -1)
        return _blocks(model, base(pixels, noise=noise, output_hidden_states=True), pixels)
    finally:
        config.mask_ratio = ratio


def _look_swin(model, pixels):
    out = model(pixels, output_hidden_states=True, output_hidden_states_before_downsampling=True)
    return _stages(model, out.reshaped_hidden_states, model.base_model.layernorm) | _logits(out)


def _look_grids(model, pixels):
    """Of a bare ConvNeXt the norm is looked at on every cell, though it is behind their mean there."""
    out = model(pixels, output_hidden_states=True)
    return _stages(model, out.hidden_states, getattr(model, "layernorm", None)) | _logits(out)


def _stages(model, states, norm=None):
    grids = [grid.permute(0, 2, 3, 1) for grid in states[-len(model.config.depths) :]]
    if norm is not None:
        grids[-1] = norm(grids[-1])
    return {f"stage {number}": grid for number, grid in enumerate(grids, 1)}


def _blocks(model, out, pixels):
    states = list(out.hidden_states[-model.config.num_hidden_layers :])
    states[-1] = model.base_model.layernorm(states[-1])
    found = {f"block {number}": _grid(x[:, 1:], model, pixels) for number, x in enumerate(states, 1)}
    return found | {"cls": states[-1][:, 0]}


def _grid(x, model, pixels):
    """(B, h * w, ...) -> (B, h, w, ...)."""
    return x.reshape(len(x), pixels.shape[2] // model.config.patch_size, -1, *x.shape[2:])


def _logits(out):
    return {"logits": out.logits} if "logits" in out else {}


def _reconstruction(model, pixels, noise):
    out = model(pixels, noise=noise)
    grids = {"prediction": out.logits, "mask": out.mask}
    return {**{name: _grid(x, model, pixels) for name, x in grids.items()}, "loss": out.loss}


LOOKS = {
    "vit": _look_vit,
    "vit_mae": _look_mae,
    "swin": _look_swin,
    "pvt_v2": _look_grids,
    "convnext": _look_grids,
}
