"""Pages of the documentation that are generated from the code and from notebooks, for MkDocs."""

import json
import logging
from pathlib import Path

import reference
import results
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebook_page import notebook_markdown

logging.getLogger("jax").setLevel(logging.ERROR)

GENERATED = {
    "config_keys.md": reference.config_keys,
    "recipes.md": reference.recipes,
    "commands.md": reference.commands,
    "python.md": reference.python_interface,
    "results.md": results.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and a page for every notebook, beside the notebook itself."""
    pages = {name: make() for name, make in GENERATED.items()}
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_markdown(json.loads(path.read_text()), path.name)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
