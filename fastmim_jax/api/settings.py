"""Config keys as Python keywords: `batch_size=64`, `method__mask_ratio=0.6`."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.config_keys import suggest_key
from fastmim_jax.errors import UserError
from fastmim_jax.saved_config import flatten
from fastmim_jax.validate import check_values

PREFERRED = "schedule"  # section of a short name that several sections have, such as epochs


def apply_settings(config: ConfigDict, settings: Mapping[str, Any], caller: str) -> ConfigDict:
    """Return a config with other values; every value is checked.

    Args:
      settings: {name: value}. A name is a key of the config whole or from any part on, with "__" or "."
        between its parts: schedule__batch_size, batch_size, decoder__depth. A short name that several
        sections have is that of `schedule`, or else refused.
      caller: name of the function, for messages.

    Raises:
      UserError: a name that no key or several keys have, or a value that the key does not accept.
    """
    config = config.copy_and_resolve_references()
    keys = flatten(config)
    for name, value in settings.items():
        key = find_key(name, keys, caller)
        *sections, last = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        with config.ignore_type():
            section[last] = _convert(key, value, keys[key])
    check_values(config)
    return config


def find_key(name: str, keys: Iterable[str], caller: str) -> str:
    """Return the key of a config that a keyword names; see `apply_settings`."""
    keys, dotted = list(keys), name.replace("__", ".")
    found = [key for key in keys if key == dotted] or [key for key in keys if key.endswith(f".{dotted}")]
    if len(found) > 1:
        found = [key for key in found if key == f"{PREFERRED}.{dotted}"] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(key.replace(".", "__") for key in found)
        raise UserError(f"{caller}() has several settings {name}; choose from: {names}")
    near = suggest_key(dotted, keys)
    hint = f"did you mean {near.replace('.', '__')}?" if near else "`fastmim config` lists all"
    raise UserError(f"{caller}() has no setting {name}: {hint}")


def _convert(key: str, value: Any, default: Any) -> Any:
    """Return a value as the key has it: tuples for lists, a square for one side, floats for integers."""
    if key == "data.image_size" and isinstance(value, int):
        return (value, value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return tuple(value) if isinstance(value, list) else value
