"""The imports of the package match the declarations in pyproject.toml and requirements.txt."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported by another package that does not declare it; pyproject.toml says which.
IMPLICIT = {"flatbuffers", "importlib-resources"}
OWN = ("fastmim_jax", "helpers", "conftest")
# Extras that the package imports from.
USED = ("torch", "onnx", "parquet", "heif", "demo", "hub", "wandb", "mlflow")
# Modules of distributions with another name: those of mlflow-skinny are known only where it is installed.
OTHER_NAMES = {"mlflow"}
# The bundled photos are found inside scikit-image without importing it.
DEMO = {"scikit-image"}


def normalized(requirement):
    """Return the distribution's normalised name of a requirement line."""
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def distributions(folder):
    """Return {distribution: files} of all third-party imports in the files of a folder."""
    names = packages_distributions()
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in {name.split(".")[0] for name in modules}:
                if module not in sys.stdlib_module_names and module not in OWN:
                    (distribution, *_) = names.get(module, [module])
                    found.setdefault(normalized(distribution), set()).add(str(path.relative_to(ROOT)))
    return found


# Of the script that `convert --to=keras_hub` writes, which nothing here imports.
OF_WRITTEN_SCRIPTS = {"keras", "keras-hub"}
DEPENDENCIES = {normalized(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    name: {normalized(line) for line in lines} - {"fastmim-jax"}
    for name, lines in PROJECT["optional-dependencies"].items()
}
PINNED = {
    normalized(line)
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["fastmim_jax", "configs"])
def test_every_import_is_declared(folder):
    declared = DEPENDENCIES.union(*(EXTRAS[name] for name in USED))
    # torchvision comes with timm; torch alone serves `.pth` files.
    declared |= OTHER_NAMES | OF_WRITTEN_SCRIPTS
    declared |= (
        {normalized(line) for line in requires("timm") or ()} if "timm" in installed() else {"torchvision"}
    )
    assert not {name: files for name, files in distributions(folder).items() if name not in declared}


def installed():
    return {normalized(name) for names in packages_distributions().values() for name in names}


@pytest.mark.slow
def test_every_import_of_the_tests_is_declared():
    declared = DEPENDENCIES.union(*EXTRAS.values()) | {"torchvision", "torch"} | OTHER_NAMES
    assert not {name: files for name, files in distributions("tests").items() if name not in declared}


@pytest.mark.slow
def test_every_dependency_is_imported_or_explained():
    imported = set(distributions("fastmim_jax")) | set(distributions("configs"))
    assert DEPENDENCIES - imported <= IMPLICIT


def test_requirements_alone_run_every_command():
    """requirements.txt pins every dependency and the demo's photos, so that a checkout needs no more."""
    assert DEPENDENCIES | DEMO <= PINNED | {"scikit-image"}
    assert PINNED - DEPENDENCIES - DEMO <= {"jaxlib"}
