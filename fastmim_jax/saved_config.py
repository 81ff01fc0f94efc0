"""Saved configs (config.json): opened with the current keys, and compared to a new config."""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import FormatMismatch
from fastmim_jax.segment_config import segment_config

DEFAULTS = {"pretrain": pretrain_config, "finetune": finetune_config, "segment": segment_config}

COMPUTE = tuple(
    f"{section}.{key}" for section in ("method", "model") for key in ("kernel", "remat", "layers")
)
ACCUMULATION = ("schedule.accumulation", "stages.accumulations")
# Sections and keys that may differ when a run is resumed. Those of COMPUTE and ACCUMULATION change rounding
# alone, but for batch norms and drop path.
# Data and the parameters of `init` may move: `train.training_data` compares what they hold.
PLACES = ("data.path", "data.eval_path", "data.legend", "init")
RESUMABLE = ("run.", "monitor.", "data.cache", *PLACES, *COMPUTE, *ACCUMULATION)

# Old name -> current name of a key "section.key". Saved configs may have either.
RENAMED_KEYS = {
    "optimizer.spared": "optimizer.no_decay",
    "optimizer.average": "optimizer.ema_decay",
    "augment.deviation": "augment.magnitude_std",
    "augment.erase": "augment.random_erasing",
    "augment.repeats": "augment.repeated_augmentation",
    "augment.smoothing": "augment.label_smoothing",
}

# {kind: {key: value}}: what runs did before they had a key, where that is not its default.
BEFORE_KEYS = {"segment": {"data.photometric_distortion": 0.0}}


def kind_of(config: Mapping) -> str:
    """Return what a config is for, as its command is called: "pretrain", "finetune" or "segment"."""
    if "model" not in config:
        return "pretrain"
    return "segment" if "head" in config["model"] else "finetune"


def default_config(config: Mapping) -> ConfigDict:
    """Return the default config of the same kind as `config`."""
    return DEFAULTS[kind_of(config)]()


def _defaults_of_saved(saved: Mapping) -> ConfigDict:
    """Return the values of the keys that a saved config lacks."""
    config = default_config(saved)
    config.update_from_flattened_dict(BEFORE_KEYS.get(kind_of(saved), {}))
    return config


def rename_keys(saved: Mapping) -> dict:
    """Return a copy of a saved config (nested dict) with RENAMED_KEYS under their current names.

    Where a section has both names, the current one counts.
    """
    renamed = {key: dict(x) if isinstance(x, Mapping) else x for key, x in saved.items()}
    for old, new in RENAMED_KEYS.items():
        (section, old_key), new_key = old.split("."), new.split(".")[1]
        values = renamed.get(section)
        if isinstance(values, dict) and old_key in values:
            values.setdefault(new_key, values[old_key])
            del values[old_key]
    return renamed


def config_from_dict(saved: Mapping) -> ConfigDict:
    """Return the config that was saved as a nested dict; missing keys get their defaults or BEFORE_KEYS."""
    saved = rename_keys(saved)
    return ConfigDict(_with_defaults(saved, _defaults_of_saved(saved).to_dict()))


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    nested = {key: x for key, x in values.items() if isinstance(x, dict) and key in defaults}
    return {**defaults, **values, **{key: _with_defaults(x, defaults[key]) for key, x in nested.items()}}


def flatten(config: Mapping | ConfigDict) -> dict[str, Any]:
    """Return {"section.key": value} of a config or nested dict, with plain JSON values."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat.update({f"{key}.{inner}": x for inner, x in flatten(value).items()})
        else:
            flat[key] = _to_json(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `flatten`: return the nested dict of {"section.key": value}."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return nested


def find_mismatch(saved: Mapping) -> str:
    """Return which key of a saved config (nested dict) has another type than the defaults; "" if none."""
    if not isinstance(saved.get("method", saved.get("model")), Mapping):
        return "it has no section method or model"
    renamed = rename_keys(saved)
    return _mismatch(renamed, default_config(renamed).to_dict(), "")


def _mismatch(values: Mapping, defaults: Mapping, prefix: str) -> str:
    for key in defaults.keys() & values.keys():
        value, default = values[key], defaults[key]
        if not _fits(value, default):
            return f"{prefix}{key} is {str(value)[:40]!r}, expected {_kind(default)}"
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if inner := _mismatch(value, default, f"{prefix}{key}."):
                return inner
    return ""


def _fits(value: Any, default: Any) -> bool:
    """Return whether a value may stand for a default: also None, and a number for a word such as "auto"."""
    if value is None or default is None or (_kind(value), _kind(default)) == ("a number", "a text"):
        return True
    if isinstance(default, (list, tuple)) and default and isinstance(value, (list, tuple)):
        return all(_fits(item, default[0]) for item in value)
    return _kind(value) == _kind(default)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a text" if isinstance(value, str) else "a number"


def _to_json(value: Any) -> Any:
    return [_to_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def differences(before: Mapping, now: Mapping | ConfigDict) -> list[tuple[str, Any, Any]]:
    """Return [(key, value before, value now)] of the keys that differ and change the training.

    Sections and keys of RESUMABLE are left out. A key that the older config lacks counts as its default, or
    as in BEFORE_KEYS.
    """
    before = rename_keys(before)
    before, now = {**flatten(_defaults_of_saved(before)), **flatten(before)}, flatten(now)
    keys = [key for key in sorted({*before, *now}) if not key.startswith(RESUMABLE)]
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]


def override(config: ConfigDict, settings: Iterable[str]) -> None:
    """Set keys of a config, in place.

    Args:
      settings: texts such as "method.backbone.heads=6".

    Raises:
      FormatMismatch: the config of this kind of model has no such key, or the value has another type.
    """
    config.lock()
    for setting in settings:
        key, _, text = setting.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({config_key(key): value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise FormatMismatch(
                f"--set={setting} does not fit the config ({str(error).splitlines()[0]}): expected a key "
                "of fastmim_jax/config.py and a value, such as --set=method.backbone.heads=6"
            ) from error


def config_key(setting: str) -> str:
    """Return the flattened config key of a setting "KEY=VALUE" or "config.KEY=VALUE"."""
    return setting.partition("=")[0].removeprefix("config.")
