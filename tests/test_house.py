"""The house: imports run one way, files stay readable, words stay the field's, every module is tested."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastmim_jax"
# A module may import its own floor's package and the floors before it; packages of one floor are apart.
FLOORS = [
    ("errors",),
    ("paths",),
    ("io", "file_lock", "run_folder"),
    ("stores",),
    ("data", "models"),
    ("mim", "draw"),
    ("config", "config_keys"),
    ("segment_config",),
    ("saved_config", "stages", "recipes"),
    ("auto_schedule",),
    ("build",),
    ("validate",),
    ("plan",),
    ("train",),
    ("evaluate", "export", "start_jax"),
    ("tools",),
    ("api",),
    ("cli",),
    ("__main__",),
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 350
MOST_IMPORT_LINES = 45
MOST_FILES = 12  # in a folder of export/
PRIVATE_WORDS = r"\b(Course|Parts|told|spared|inward|outward)\b"
# Keys of files that were written before names changed.
ON_DISK = ('"told"', '"optimizer.spared"')


@cache
def tree_of(path):
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def statements_of(path):
    """Return all statements of a file, those inside of others too: a walk over expressions takes longer."""
    found = [tree_of(path)]
    for node in found:
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, name, ())
    return found


def name_of(path):
    return str(path.relative_to(PACKAGE))


def module_of(path):
    """Return the dotted name of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path):
    """Yield the dotted names in the import statements of a file, lazy ones included."""
    for node in statements_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name):
    """Return the part of the package that a dotted name belongs to: "fastmim_jax.mim.hog" -> "mim"."""
    return name.split(".")[1] if name.startswith("fastmim_jax.") else None


def test_no_import_runs_up_or_sideways():
    wrong = []
    for path in FILES:
        here = part(module_of(path))
        if here is None:  # the package itself loads its public names on first use
            continue
        for name in imported_modules(path):
            there = part(name)
            if there in FLOOR and there != here and FLOOR[there] >= FLOOR[here]:
                wrong.append(f"{name_of(path)} imports {name}")
    assert not wrong


def test_every_part_has_a_floor():
    parts = {part(module_of(path)) for path in FILES} - {None}
    assert parts == set(FLOOR)


def test_files_are_short():
    long = {
        name_of(path): count for path in FILES if (count := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert not long


def test_imports_fit_on_a_screen():
    def import_lines(path):
        nodes = tree_of(path).body
        return sum(n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))

    assert not {name_of(path) for path in FILES if import_lines(path) > MOST_IMPORT_LINES}


def test_export_has_no_crowded_folder():
    folders = {path.parent for path in (PACKAGE / "export").rglob("*.py")}
    assert not {name_of(folder) for folder in folders if len(list(folder.glob("*.py"))) > MOST_FILES}


def test_every_module_is_imported_by_a_test():
    tested = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tested |= set(imported_modules(path))
    modules = {module_of(path) for path in FILES if path.name not in ("__init__.py", "__main__.py")}
    assert not modules - tested


def docstrings(path):
    for node in statements_of(path):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text


def riddles_of(path, starts):
    return [doc for doc in docstrings(path) if re.match(starts, doc)]


def test_words_are_the_fields():
    private, riddles = {}, {}
    for path in FILES:
        code = path.read_text()
        for key in ON_DISK:
            code = code.replace(key, "")
        private[name_of(path)] = re.findall(PRIVATE_WORDS, code)
        riddles[name_of(path)] = riddles_of(path, r"(What|Those|As of|Such|How)\b")
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        riddles[str(path)] = riddles_of(path, r"(What|Those|As of)\b")
    assert not {name: found for name, found in private.items() if found}
    assert not {name: found for name, found in riddles.items() if found}


def test_data_workers_import_no_jax():
    modules = "sources, decode, augment, randaugment, undecodable, workers"
    code = f"from fastmim_jax.data import {modules}; import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
