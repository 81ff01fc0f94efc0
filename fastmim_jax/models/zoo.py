"""The table of backbone families, and the function that creates a backbone by name."""

import dataclasses
import difflib
from importlib import import_module
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone

# Modules of this package with VARIANTS: {name: (class, its keyword arguments)}.
FAMILIES = (
    "vit",
    "mixmim",
    "swin",
    "cmt",
    "convnext",
    "pvt_v2",
)
ZOO: dict[str, tuple[type[Backbone], dict[str, Any]]] = {
    name: variant
    for family in FAMILIES
    for name, variant in import_module(f"fastmim_jax.models.{family}").VARIANTS.items()
}


def create_model(name: str, **overrides: Any) -> Backbone:
    """Return a backbone, a Flax module.

    Args:
      name: a key of ZOO, such as "vit_b16".
      **overrides: fields of its class that differ from the table, such as heads=6.

    Raises:
      UserError: unknown name or field, or a tuple of another length.

    >>> import jax, jax.numpy as jnp
    >>> model = create_model("vit_ti16", depth=2)
    >>> images = jnp.zeros((1, 32, 48, 3))
    >>> output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    >>> output.tokens.shape
    (1, 2, 3, 192)
    """
    fields = backbone_fields(name)
    for key in overrides:
        if key not in fields:
            raise UserError(f"backbone '{name}' has no '{key}'; choose from: {', '.join(sorted(fields))}")
    constructor, sizes = ZOO[name]
    defaults = {field.name: field.default for field in dataclasses.fields(constructor)} | sizes
    given = {key: _field_value(name, key, value, defaults[key]) for key, value in overrides.items()}
    return constructor(**{**sizes, **given})


def list_models(family: str = "") -> list[str]:
    """Return the names of all backbones, or of those that begin with `family`, such as "vit"."""
    return [name for name in ZOO if name.startswith(family)]


def _field_value(name: str, key: str, value: Any, default: Any) -> Any:
    """Return the value of a field: a list becomes a tuple, which must be as long as the default."""
    value = tuple(value) if isinstance(value, list) else value
    if default is None:
        return value
    if isinstance(default, tuple) != isinstance(value, tuple):
        raise UserError(f"'{key}' of backbone '{name}' is {value}, expected a value like {default}")
    if isinstance(default, tuple) and len(value) != len(default):
        raise UserError(
            f"'{key}' of backbone '{name}' is {value}, expected {len(default)} numbers, such as {default}"
        )
    return value


def backbone_fields(name: str) -> set[str]:
    """Return the names of the fields of a backbone in ZOO.

    Raises:
      UserError: unknown name.
    """
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.5) or sorted(ZOO)
        raise UserError(f"unknown backbone '{name}'; choose from: {', '.join(close)}")
    return {field.name for field in dataclasses.fields(ZOO[name][0])} - {"parent", "name"}
