"""Commands of the README run, and files that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_command_for_all_tests_is_that_of_the_automatic_run():
    assert re.search(r"^make test-all\b", TEXT, re.MULTILINE)
    assert "\nmake test-all\n" in (ROOT / ".ci" / "run").read_text()
    (command,) = re.findall(r"^test-all:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert " -m pytest " in command and command.count(" -m ") == 1  # no tests are deselected


@pytest.mark.slow
def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    found = {}
    exec(code, found)
    assert found["cells"].shape == (2, 16, 12, 27)
    assert [grid.shape for grid in found["grids"]] == [(2, 8, 6, 192)] * 4
    assert found["out"].mask.mean() == 0.75 and found["out"].prediction.shape == (2, 8, 6, 108)


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", TEXT)) | set(re.findall(r"configs/\w+\.py", TEXT))
    assert named and all((ROOT / name).exists() for name in named), named


def test_every_make_target_and_command_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    from fastmim_jax.cli.commands import COMMANDS

    assert set(re.findall(r"^fastmim (\w+)", TEXT, re.MULTILINE)) <= set(COMMANDS)
