"""Infer the config of a model from the shapes of its arrays."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.export.infer_backbone import (
    POSITIONS,
    Shapes,
    has_grid,
    infer_backbone,
    infer_image_size,
    shape_of,
)
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.zoo import create_model
from fastmim_jax.saved_config import config_key

IMAGE_SIDES = {"fastmim": 128, "simmim": 192}  # of published models whose arrays fit any size
DEFAULT_SIDE = 224
# Families whose positions are sine-cosine tables, by the kind of model.
FIXED_POSITIONS = {"fastmim": ("vit",), "mae": ("vit",), "mixmim": ("mixmim",), "classifier": ("mixmim",)}
# The published mim_vit_base pre-trains this ViT-B with 6 heads (mim_vit_pretrain.py), not with 12.
SIX_HEADED = {"name": "vit_b16", "positions": "fixed"}
# Published values of config.method that no array determines, where they differ from base()'s.
RECIPES = {
    "fastmim": {},
    "mae": {"target": "pixel"},
    "mixmim": {"target": "pixel", "mask_ratio": 0.5},
    "simmim": {"target": "pixel", "mask_ratio": 0.6, "normalize_target": False},
}
SMALLEST_BLOCK = {"fastmim": 16, "simmim": 32}  # pixels; a block is no smaller than a token
HOG_BINS, HOG_CELL = 9, 8


@dataclass(frozen=True)
class Assumption:
    """A config value that neither the arrays nor the settings of a file determine.

    Attributes:
      key: flattened config key, such as "method.backbone.heads".
      value: the assumed value.
      reason: where it comes from, such as "as published"; "" for the usual value.
    """

    key: str
    value: Any
    reason: str = ""

    def __str__(self) -> str:
        parts = [part for part in self.key.split(".")[1:] if part != "backbone"]
        name, is_size = " ".join(parts).replace("_", " "), self.key == "data.image_size"
        several = isinstance(self.value, tuple)
        value = (" x " if is_size else ", ").join(map(str, self.value)) if several else self.value
        setting = f'--set="{self.key}={self.value}"' if several else f"--set={self.key}={self.value}"
        reason = f", {self.reason}" if self.reason else ""
        return f"{name} {value}{reason}: the arrays do not determine it ({setting})"


def infer_config(
    fmt: Format, shapes: Shapes, fixed: Shapes, settings: Mapping[str, Any] | None = None
) -> tuple[ConfigDict, tuple[str, ...], list[Assumption]]:
    """Infer the config of a model.

    Args:
      fmt: the format of its file.
      shapes: {our path: shape} of its arrays.
      fixed: {our path: shape} of its sine-cosine tables, which are not among `shapes`.
      settings: see `from_torch`.

    Returns:
      config, names of the classes (() without a head), assumptions.

    Raises:
      FormatMismatch: the arrays do not make such a model.
    """
    settings = settings or {}
    inside = {path.removeprefix("encoder/"): x for path, x in shapes.items() if path.startswith("encoder/")}
    backbone, assumptions = _backbone(fmt, inside, fixed, settings.get("backbone", {}))
    tables = {path.removeprefix("encoder/"): x for path, x in fixed.items()}
    inferred = infer_image_size(fmt.family, {**inside, **tables})
    size = tuple(settings.get("image_size") or inferred or (IMAGE_SIDES.get(fmt.kind, DEFAULT_SIDE),) * 2)
    if inferred is None and "image_size" not in settings:
        assumptions.append(Assumption("data.image_size", size))
    elif "image_size" not in settings and has_grid(fmt.family, inside):
        assumptions.append(Assumption("data.image_size", size, "a square grid"))
    if fmt.kind == "classifier":
        config, classes = finetune_config(), _classes(shapes, settings)
        section = config.model
        section.pooling = (settings.get("pooling") or _pooling(fmt.family, shapes)) if classes else None
        bias = "pooling/fc/bias"
        section.pooling_width = shape_of(shapes, bias, 1)[0] if bias in shapes else None
        section.backbone.drop_path = 0.0
    else:
        config, classes = pretrain_config(), ()
        section = config.method
        _set_method(section, fmt.kind, create_model(**backbone), shapes, settings)
        assumptions += _assumed_decoder(section, settings)
    section.dtype = "float32"
    section.backbone.update(backbone)
    config.data.image_size, config.data.channels = size, _channels(inside)
    return config, classes, assumptions


def image_size_of(settings: Iterable[str]) -> tuple[int, int] | None:
    """Return data.image_size if it is one of the settings, as (height, width); None for another value."""
    size = None
    for setting in settings:
        if config_key(setting) == "data.image_size":
            numbers = re.fullmatch(
                r"\s*[(\[]\s*(\d+)\s*,\s*(\d+)\s*,?\s*[)\]]\s*", setting.partition("=")[2]
            )
            size = (int(numbers[1]), int(numbers[2])) if numbers else None
    return size


def _backbone(fmt, inside, fixed, settings):
    """-> (config section of the backbone, [Assumption])."""
    backbone, assumed = infer_backbone(fmt.family, inside)
    usually_fixed = fmt.family in FIXED_POSITIONS.get(fmt.kind, ()) and POSITIONS not in inside
    if f"encoder/{POSITIONS}" in fixed or usually_fixed:
        backbone["positions"] = "fixed"
    as_published = fmt.name == "fastmim_vit" and backbone == SIX_HEADED
    if as_published:
        backbone["heads"] = 6
    backbone.update(settings)
    if not assumed or "heads" in settings:
        return backbone, []
    section = "model" if fmt.kind == "classifier" else "method"
    heads = create_model(**backbone).heads
    return backbone, [
        Assumption(f"{section}.backbone.heads", heads, "as published" if as_published else "")
    ]


def _assumed_decoder(section, settings):
    """-> [Assumption] of the decoder's heads, which no array determines."""
    decoder = section.decoder
    if section.name == "simmim" or not decoder.depth or "heads" in settings.get("decoder", {}):
        return []
    return [Assumption("method.decoder.heads", Decoder(0, **decoder).num_heads)]


def _classes(shapes, settings):
    if "head/kernel" not in shapes:
        return ()
    count = shape_of(shapes, "head/kernel", 2)[-1]
    names = tuple(settings.get("classes") or map(str, range(count)))
    if len(names) != count:
        raise FormatMismatch(
            f"the head has {count} classes, but the file names {len(names)}: expected a name for each"
        )
    return names


def _pooling(family, shapes):
    has_norm = any(path.startswith("pooling/norm/") for path in shapes)
    if family == "cmt":
        return "wide_pool"
    with_norm = "pool_norm" if family in ("vit", "convnext") else "norm_pool"
    return with_norm if has_norm else ("cls" if "encoder/cls_token" in shapes else "pool")


def _channels(inside):
    kernels = ("patch_embed/kernel", "stem/patch/kernel", "stem/conv1/kernel")
    return next((shape_of(inside, path, 2, 4)[-2] for path in kernels if path in inside), 3)


def _set_method(section, kind, encoder, shapes, settings):
    """Set the keys of `config.method`, except for its backbone."""
    section.name = kind
    section.update(RECIPES[kind])
    section.block_size = max(encoder.stride, SMALLEST_BLOCK.get(kind, 0))
    for key in ("mask_ratio", "normalize_target", "block_size"):
        if key in settings:
            section[key] = settings[key]
    if kind == "simmim":
        return
    _set_decoder(section.decoder, shapes)
    section.decoder.epsilon = encoder.official_decoder_epsilon
    section.decoder.update(settings.get("decoder", {}))
    cells = (encoder.stride // HOG_CELL) ** 2
    outputs = shape_of(shapes, "decoder/pred/kernel", 2)[-1]
    if kind == "fastmim" and (not cells or outputs % (HOG_BINS * cells)):
        section.target = "pixel"
    stages = {path.split("/")[2] for path in shapes if path.startswith("reconstruct/fill/")}
    if stages:
        section.partial.update(throw_ratio=0.5, stages=len(stages))


def _set_decoder(decoder, shapes):
    indices = {int(path.split("/")[2]) for path in shapes if path.startswith("decoder/blocks/")}
    decoder.depth = len(indices)
    decoder.width = shape_of(shapes, "decoder/pred/kernel", 2)[0]
    if indices:
        width, inner = shape_of(shapes, "decoder/blocks/0/mlp/fc1/kernel", 2)
        decoder.mlp_ratio = inner / width
