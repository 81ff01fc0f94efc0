"""Pages of the documentation that are generated from the code, for MkDocs."""

import logging

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

logging.getLogger("jax").setLevel(logging.ERROR)

GENERATED = {
    "config_keys.md": reference.config_keys,
    "recipes.md": reference.recipes,
    "commands.md": reference.commands,
    "python.md": reference.python_interface,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, make in GENERATED.items():
        files.append(File.generated(config, name, content=make()))
    return files
