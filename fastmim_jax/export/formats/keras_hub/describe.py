"""keras_hub's description of a backbone: a class or function of keras_hub or keras, and its arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastmim_jax.export.formats.detection import refuse
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.windows import check_shifts, one_window

_refuse = partial(refuse, "keras_hub")
# (widths, depths) of the functions of keras.applications.
CONVNEXTS = {
    "ConvNeXtTiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "ConvNeXtSmall": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "ConvNeXtBase": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "ConvNeXtLarge": ((192, 384, 768, 1536), (3, 3, 27, 3)),
    "ConvNeXtXLarge": ((256, 512, 1024, 2048), (3, 3, 27, 3)),
}


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return {"class": in keras_hub.models or keras.applications, "arguments": of it}.

    Raises:
      UserError: Keras has no such backbone.
    """
    family = spec.encoder.family
    if family not in _FAMILIES:
        _refuse(f"has no {family}")
    if spec.classes:
        _refuse("takes the backbone alone here (type --encoder_only)")
    name, arguments = _FAMILIES[family](spec)
    return {"class": name, "arguments": {**arguments, "image_shape": [*spec.image_size, spec.channels]}}


def _vit(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    encoder = spec.encoder
    if encoder.positions == "none" or encoder.relative_positions != "none":
        _refuse("has no ViT with relative positions or without absolute ones")
    if encoder.layer_scale is not None:
        _refuse("has no ViT with LayerScale")
    if encoder.class_tokens > 1:
        _refuse("has no ViT with several class tokens")
    return "ViTBackbone", dict(
        patch_size=encoder.patch_size,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        hidden_dim=encoder.width,
        mlp_dim=int(encoder.width * encoder.mlp_ratio),
        layer_norm_epsilon=encoder.epsilon,
        use_class_token=encoder.class_token,
    )


def _swin(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    encoder = spec.encoder
    if encoder.positions != "none":
        _refuse("has no Swin with absolute position embeddings")
    if encoder.epsilon != 1e-5:
        _refuse(f"has no Swin with an epsilon of {encoder.epsilon:g}, only with 1e-05")
    window = one_window(encoder, spec.image_size, _refuse)
    check_shifts(encoder, spec.image_size, _refuse)
    return "SwinTransformerBackbone", dict(
        embed_dim=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=window,
        mlp_ratio=float(encoder.mlp_ratio),
    )


def _convnext(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    encoder = spec.encoder
    sizes = tuple(encoder.widths), tuple(encoder.depths)
    name = next((name for name, known in CONVNEXTS.items() if known == sizes), None)
    if name is None:
        _refuse(f"has no ConvNeXt of widths {sizes[0]} and depths {sizes[1]}, only {', '.join(CONVNEXTS)}")
    if encoder.epsilon != 1e-6:
        _refuse(f"has no ConvNeXt with an epsilon of {encoder.epsilon:g}, only with 1e-06")
    return name, {}


_FAMILIES: dict[str, Callable[[ModelSpec], tuple[str, dict[str, Any]]]] = {
    "vit": _vit,
    "swin": _swin,
    "convnext": _convnext,
}
