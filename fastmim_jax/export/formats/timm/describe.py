"""timm's description of a model: the config.json by which it opens a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from fastmim_jax.data.device import channel_statistics
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.timm.architectures import BEIT, FAMILIES, Arguments, Family, find_family

CROP_PCT = 0.875  # side of the evaluated crop, of the short side of the image


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return timm's config.json of a model.

    Raises:
      UserError: timm has no such model.
    """
    family, channels = find_family(spec.encoder), spec.channels
    wanted = {
        **family.arguments(spec.encoder, spec.image_size),
        **_pooling_arguments(family, _pooling(spec)),
        "in_chans": channels,
    }
    architecture, differing = _nearest(wanted, family)
    mean, std = channel_statistics(channels)
    description = {
        "architecture": architecture,
        "num_classes": len(spec.classes),
        "num_features": family.num_features(spec.encoder),
        "global_pool": wanted["global_pool"],
        "model_args": differing,
        "pretrained_cfg": {
            "input_size": [channels, *spec.image_size],
            "fixed_input_size": family.fixed_size,
            "interpolation": "bicubic",
            "crop_pct": CROP_PCT,
            "mean": spec.mean or mean,
            "std": spec.std or std,
            "num_classes": len(spec.classes),
            "first_conv": family.first_conv,
            "classifier": family.classifier,
        },
    }
    if spec.classes:
        description["label_names"] = spec.classes
    return json.loads(json.dumps(description))  # as it is read back: lists for tuples


def _pooling(spec: ModelSpec) -> str | None:
    """The pooling; a ViT without a class token needs one without a norm of its own."""
    if spec.head_pooling is None and spec.encoder.family == "vit" and not spec.encoder.has_cls_token:
        return "pool"
    return spec.head_pooling


def _pooling_arguments(family: Family, pooling: str | None) -> Arguments:
    if pooling not in family.poolings:
        names = [name for name in family.poolings if name]
        raise UserError(
            f"timm's {family.name} has no pooling '{pooling}'; choose from: {', '.join(names)}; or type "
            f"--to=official, or fine-tune with --config.model.pooling={names[0]}"
        )
    return {"global_pool": family.defaults["global_pool"], **family.poolings[pooling]}


def _nearest(wanted: Arguments, family: Family) -> tuple[str, Arguments]:
    """-> (the name of the model with the fewest arguments to change, those arguments)."""
    defaults = {**family.defaults, "in_chans": 3}
    differing = {
        name: {key: x for key, x in wanted.items() if x != {**defaults, **own}[key]}
        for name, own in family.architectures.items()
    }
    return min(differing.items(), key=lambda item: len(item[1]))


def format_name(encoder: nn.Module) -> str:
    """Return the key of `formats.FORMATS` that goes with `describe`.

    Raises:
      UserError: timm has no such model.
    """
    return find_family(encoder).format_name


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for `export.from_torch.from_torch` from the config.json of a timm folder.

    Returns:
      Any of {"backbone": {"heads"}, "image_size", "pooling", "classes"}. An architecture that the tables
      do not have is known by its own arguments only.
    """
    name = config.get("architecture", "").split(".")[0]
    family = next((x for x in (*FAMILIES.values(), BEIT) if name in x.architectures), None)
    defaults = {**family.defaults, **family.architectures[name]} if family else {}
    arguments = {**defaults, **(config.get("model_args") or {})}
    settings, heads = {"classes": config.get("label_names")}, arguments.get("num_heads")
    if heads:
        settings["backbone"] = {"heads": heads if isinstance(heads, int) else tuple(heads)}
    own_norm = arguments.get("fc_norm", arguments.get("use_fc_norm"))
    if arguments.get("global_pool") == "avg" and own_norm is False:
        settings["pooling"] = "pool"
    size = (config.get("pretrained_cfg") or config).get("input_size")
    return settings | ({"image_size": tuple(size[1:])} if size else {})


def model_arguments(description: Mapping[str, Any]) -> Arguments:
    """Return the arguments of timm.create_model beside the architecture."""
    return {"num_classes": description["num_classes"], **description["model_args"]}


def load_call(description: Mapping[str, Any], path: Path) -> str:
    """Return the Python call that opens a .safetensors or .pth file with timm."""
    arguments = {**model_arguments(description), "checkpoint_path": str(path)}
    given = ", ".join(f"{name}={x!r}" for name, x in arguments.items())
    return f"timm.create_model({description['architecture']!r}, {given})"


def folder_code(description: Mapping[str, Any], path: Path) -> str:
    """Return the Python lines that open a folder with timm."""
    return f"import timm\n\nmodel = timm.create_model('local-dir:{path}', pretrained=True)"
