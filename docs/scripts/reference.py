"""Reference pages, as Markdown, from the code: config keys, recipes, commands, the Python interface."""

import html
from collections.abc import Iterator

import griffe

import fastmim_jax
from fastmim_jax.cli.command import command_help
from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.config import PATH_KEYS, finetune_config, pretrain_config
from fastmim_jax.config_keys import key_meanings
from fastmim_jax.recipes import list_config_files
from fastmim_jax.saved_config import flatten
from fastmim_jax.segment_config import segment_config
from fastmim_jax.validate.values import FINETUNE_RULES, PRETRAIN_RULES, SEGMENT_RULES

KEYS_INTRO = """# Config keys

Every key of a config: its default, its meaning, and the values that it accepts. On the command line a key
is `--config.KEY=VALUE` (tuples in quotes: `--config.data.image_size="(96, 160)"`), in Python a keyword with
`__` for dots (`data__image_size=(96, 160)`, or the end of it where that is unique). Recipes have other
defaults:
"""
KEYS_COMMAND = """
```sh
fastmim config --config=configs/mae.py:vit_b16
```

lists the values of one. *unset* means that the model or the data decides.
"""
# Sections of the page of the Python interface; public names without one come last.
PARTS = {
    "Train and probe": ("pretrain", "finetune", "segment", "probe"),
    "Use a model": ("load", "Model"),
    "Parts for your own loop": ("make_step", "create_method", "create_model", "hog"),
    "Lists, configs, data": ("list_models", "list_configs", "load_config", "open_dataset"),
}


def config_keys() -> str:
    """Return the page of all config keys."""
    kinds = (
        ("Pre-training", pretrain_config(), "pretrain", PRETRAIN_RULES),
        ("Fine-tuning", finetune_config(), "finetune", FINETUNE_RULES),
        ("Segmentation", segment_config(), "segment", SEGMENT_RULES),
    )
    text = [KEYS_INTRO, KEYS_COMMAND]
    for title, config, kind, rules in kinds:
        text.append(f"## {title}\n")
        text += _key_tables(title.lower(), flatten(config), key_meanings(kind), rules)
    return "\n".join(text) + "\n"


def _key_tables(title, defaults, meanings, rules) -> Iterator[str]:
    before = None
    for key, default in sorted(defaults.items(), key=lambda item: item[0].rpartition(".")[0]):
        section, _, last = key.rpartition(".")
        if section != before:
            name = f"`{section}`" if section else "top level"
            yield f"\n### {name} {{#{title}-{section.replace('.', '-') or 'top'}}}\n"
            yield "| key, default | meaning, accepted values |\n|---|---|"
        before = section
        meaning, accepted = _cell(meanings[key]), _cell(_accepted(key, rules[key].expected))
        yield f"| **`{last}`**<br>{_shown(default)} | {meaning}<br>*{accepted}* |"
    yield ""


def _accepted(key, expected):
    if key in PATH_KEYS:
        return "a path"
    return expected.replace("choose from: ,", "choose from: '',")


def _shown(value) -> str:
    if value is None:
        return "*unset*"
    if isinstance(value, list | tuple):
        inside = ", ".join(f"{x:.4g}" if isinstance(x, float) else repr(x) for x in value)
        return f"`({inside}{',' * (len(value) == 1)})`"
    return f"`{value!r}`"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def recipes() -> str:
    """Return the page of all config files and their variants."""
    text = [
        "# Recipes\n\nThe bundled configs. `--config=FILE:VARIANT` chooses one; `fastmim configs` lists "
        "them in the terminal. Published accuracies are the papers'; none has been repeated here yet."
    ]
    for file in list_config_files():
        text.append(f"## `{file.name}`\n\n```text\n{file.doc}\n```")
        if file.variants:
            text.append("Variants: " + ", ".join(f"`{variant}`" for variant in file.variants) + ".")
    return "\n\n".join(text) + "\n"


def commands() -> str:
    """Return the page of all commands, with their help."""
    text = ["# Commands\n\n`fastmim COMMAND --help` prints the same."]
    for name, command in COMMANDS.items():
        text.append(f"## {name}\n\n```text\n{command_help(name, command)}\n```")
    return "\n\n".join(text) + "\n"


def python_interface() -> str:
    """Return the page of all public names of the package, for mkdocstrings."""
    text = [
        "# Python\n\n`import fastmim_jax` imports no JAX and touches no device; names load on first use. "
        "The [notebooks](notebooks/own_photos.md) show them at work."
    ]
    public = [name for name in fastmim_jax.__all__ if not name.startswith("_")]
    placed = [name for names in PARTS.values() for name in names]
    parts = {**PARTS, "More": [name for name in public if name not in placed]}
    for title, names in parts.items():
        text.append(f"## {title}")
        text += [f"::: fastmim_jax.{name}" for name in names if name in public]
    text += ["## Results", *(f"::: {path}" for path in _result_classes(public))]
    return "\n\n".join(text) + "\n"


def _result_classes(public) -> list[str]:
    """Return the paths of the classes that public functions and methods return."""
    package = griffe.load("fastmim_jax")
    objects = [package[name] for name in public]
    functions = [one for one in objects if one.is_function]
    functions += [
        function
        for one in objects
        if one.is_class
        for name, function in one.functions.items()
        if name[0] != "_"
    ]
    found = []
    for function in functions:
        for name in function.returns.iterate() if isinstance(function.returns, griffe.Expr) else ():
            path = getattr(name, "canonical_path", "")
            if path.startswith("fastmim_jax.api.") and path.rpartition(".")[2] not in public:
                found.append(path)
    return list(dict.fromkeys(found))
