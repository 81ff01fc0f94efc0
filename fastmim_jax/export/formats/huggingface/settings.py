"""The config.json of transformers' models, read for settings of ours."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.huggingface.describe import CLASSIFIER

EPSILON_TOLERANCE = 1e-5  # between epsilons of norms: variances are near 1, so outputs differ by half of it


class _Readable(NamedTuple):
    """Entries of the config.json of one model type.

    backbone: {our key: (their key, its default)}. expected: values that all of our models have.
    epsilon: of our norms. pooling: of the classifier, a key of `heads.POOLINGS`.
    """

    backbone: Mapping[str, tuple[str, Any]]
    expected: Mapping[str, Any]
    epsilon: float
    pooling: str


_VIT_ENTRIES = _Readable({"heads": ("num_attention_heads", 12)}, {"qkv_bias": True}, 1e-6, "cls")
_MODEL_TYPES = {
    "vit": _VIT_ENTRIES,
    "vit_mae": _VIT_ENTRIES,
    "pixio": _Readable(
        {"heads": ("num_attention_heads", 16), "class_tokens": ("n_cls_tokens", 8)},
        {"qkv_bias": True},
        1e-6,
        "cls",
    ),
    "swin": _Readable(
        {"heads": ("num_heads", (3, 6, 12, 24)), "window": ("window_size", 7)},
        {"qkv_bias": True, "patch_size": 4},
        1e-5,
        "pool",
    ),
    "pvt_v2": _Readable(
        {"heads": ("num_attention_heads", (1, 2, 5, 8))},
        {"qkv_bias": True, "patch_sizes": (7, 3, 3, 3), "strides": (4, 2, 2, 2), "sr_ratios": (8, 4, 2, 1)},
        1e-6,
        "pool",
    ),
    "convnext": _Readable({}, {"patch_size": 4}, 1e-6, "pool_norm"),
}


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for `export.from_torch.from_torch` from a config.json.

    Returns:
      {"backbone": keys of `config.model.backbone`, "image_size": (height, width)}; of a classifier also
      "pooling", a key of `heads.POOLINGS`, and "classes", their names; of an MAE also "decoder": {"heads"},
      "mask_ratio" and "normalize_target" as in `config.method`.

    Raises:
      UserError: another model type, or a variant that no model of ours corresponds to.
    """
    entries = _MODEL_TYPES.get(config.get("model_type", ""))
    if entries is None:
        raise UserError(
            f"config.json is of a '{config.get('model_type')}', expected one of {', '.join(_MODEL_TYPES)}: "
            "give the folder of such a model"
        )
    for key, expected in {**entries.expected, "hidden_act": "gelu"}.items():
        _check_equal(key, _value(config, key, expected), expected)
    epsilon = config.get("layer_norm_eps", entries.epsilon)
    if abs(epsilon - entries.epsilon) > EPSILON_TOLERANCE:
        _check_equal("layer_norm_eps", epsilon, entries.epsilon)
    image_size = config.get("image_size", 224)
    if isinstance(image_size, dict):  # PVT v2 in transformers 4
        image_size = image_size["height"], image_size["width"]
    settings = {
        "backbone": {ours: _value(config, *theirs) for ours, theirs in entries.backbone.items()},
        "image_size": (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size),
    }
    name = (config.get("architectures") or [""])[0]
    if name.endswith(CLASSIFIER):
        settings.update(pooling=entries.pooling, classes=_classes(config))
    if name == "ViTMAEForPreTraining":
        settings.update(
            decoder={"heads": config.get("decoder_num_attention_heads", 16)},
            mask_ratio=config.get("mask_ratio", 0.75),
            normalize_target=config.get("norm_pix_loss", False),
        )
    return settings


def _classes(config: Mapping[str, Any]) -> list[str]:
    """The names of the classes, in order; transformers' default is two."""
    numbered = {index: f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    named = config.get("id2label") or numbered
    return [named[index] for index in sorted(named, key=int)]


def _value(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    return tuple(value) if isinstance(value, list) else value


def _check_equal(key: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise UserError(
            f"config.json has {key} {value}, expected {expected} as in all backbones here: give a model "
            "with that"
        )
