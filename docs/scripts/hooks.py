"""Pages of the documentation that are generated from the code, for MkDocs."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    return files
