"""Code blocks of README.md and of the pages in docs/."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path, language):
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def cells(path):
    """Return the code cells of a notebook."""
    return ["".join(x["source"]) for x in json.loads(path.read_text())["cells"] if x["cell_type"] == "code"]
