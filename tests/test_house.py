"""The house: data flows one way, importing stays light, and no file grows past reading."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastmim_jax"
# Each may import itself and what stands to its left; data and models do not know each other.
FLOORS = [
    "errors",
    "io",
    ("data", "models"),
    "mim",
    "config",
    ("saved_config", "stages"),
    "build",
    "validate",
    "plan",
    "train",
    ("evaluate", "export"),
    "tools",
    "cli",
    "__main__",
]
FLOOR = {
    name: number
    for number, names in enumerate(FLOORS)
    for name in ([names] if isinstance(names, str) else names)
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(name):
    """ "fastmim_jax.mim.hog" -> "mim"; the package itself -> None."""
    return name.split(".")[1] if "." in name else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_up_or_sideways(path):
    here = part(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    if here == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            there = part(name) if name.startswith("fastmim_jax") else None
            if there is not None and there != here:
                assert FLOOR[there] < FLOOR[here], f"{path.name} imports {name}"


def test_no_file_is_much_over_350_lines():
    assert {path.name for path in FILES if len(path.read_text().splitlines()) > 360} == set()


def test_workers_load_no_jax_of_ours():
    modules = "sources, decode, augment, randaugment, undecodable, workers"
    code = f"from fastmim_jax.data import {modules}; import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
