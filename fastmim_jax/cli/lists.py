"""Lists for the terminal: configs, models, and the keys of a config with value, default and meaning."""

import textwrap
from collections.abc import Iterator
from typing import Any

from fastmim_jax.errors import UserError, did_you_mean

WIDTH = 108
KEY_WIDTH, VALUE_WIDTH = 34, 24


def config_lines(name: str = "") -> Iterator[str]:
    """Yield the bundled configs and their variants, or the description of one file.

    Raises:
      UserError: no file of this name.
    """
    from fastmim_jax.recipes import list_config_files

    files = list_config_files()
    if name:
        stem = name.removeprefix("configs/").partition(":")[0].removesuffix(".py")
        found = [file for file in files if file.name == f"configs/{stem}.py"]
        if not found:
            names = [file.name for file in files]
            hint = did_you_mean(f"configs/{stem}.py", names)
            raise UserError(f"no config file {name}{hint}; choose from: {', '.join(names)}")
        yield found[0].doc
        return
    for file in files:
        yield f"{file.name}  {file.summary}"
        text = ", ".join(file.variants) or "(no variants)"
        yield from textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield "\ntype --config=FILE:VARIANT, such as --config=configs/own.py:tiny for your own images;"
    yield "`fastmim configs NAME` describes a file, `fastmim config --config=FILE:VARIANT` lists its keys"


def model_lines(name: str = "") -> Iterator[str]:
    """Yield the backbones, or those whose names begin with `name`, with their parameters.

    Raises:
      UserError: no such backbone.
    """
    import jax
    import jax.numpy as jnp

    from fastmim_jax.models.zoo import create_model, list_models
    from fastmim_jax.train.state import count_parameters

    names = list_models(name)
    if not names:
        hint = did_you_mean(name, list_models())
        raise UserError(f"no backbone '{name}'{hint}: `fastmim models` lists all")
    yield f"{'backbone':<18}  {'stride':>6}  {'depth':<16}  {'width':<22}  methods" + "  parameters" * bool(
        name
    )
    for one in names:
        model: Any = create_model(one)
        methods = (
            ["fastmim"]
            + ["mae", "crossmae"] * model.supports_token_dropping
            + ["mixmim"] * model.supports_groups
        )
        methods += ["simmim", "localmim"]
        depth = getattr(model, "depth", None) or "/".join(map(str, model.depths))
        width = "/".join(map(str, model.stage_widths))
        line = f"{one:<18}  {model.stride:>6}  {depth:<16}  {width:<22}  {', '.join(methods)}"
        if name:
            side = 8 * model.stride
            images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
            shapes = jax.eval_shape(model.init, jax.random.key(0), images)
            line += f"  {count_parameters(shapes['params']) / 1e6:,.1f} M"
        yield line


def key_lines(config: Any) -> Iterator[str]:
    """Yield every key of a config: its value, its default where that differs, and its meaning."""
    from fastmim_jax.config_keys import key_meanings
    from fastmim_jax.saved_config import default_config, flatten, kind_of

    meanings, defaults, before = key_meanings(kind_of(config)), flatten(default_config(config)), ""
    for key, value in flatten(config).items():
        part = key.rpartition(".")[0]
        if part != before:
            yield ""
        before = part
        default = defaults.get(key)
        changed = f"[default {_shown(default)}] " if value != default else ""
        text = f"{changed}{meanings.get(key, '')}"
        head = f"{key:<{KEY_WIDTH}}  {_shown(value):<{VALUE_WIDTH}}  "
        indent = " " * (KEY_WIDTH + VALUE_WIDTH + 4)
        yield from textwrap.wrap(head + text, 140, subsequent_indent=indent, drop_whitespace=False) or [
            head
        ]
    yield "\ntype --config.KEY=VALUE to set one; tuples in quotes: --config.data.image_size='(96, 160)'"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return str(tuple(value))
    return "unset" if value is None else "''" if value == "" else str(value)
