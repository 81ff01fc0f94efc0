"""Commands of the README run, and files that it names exist."""

import re
from pathlib import Path

import numpy as np
import pytest

from helpers import small
from helpers.shallow import shallow_configs

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_command_for_all_tests_is_that_of_the_automatic_run():
    assert re.search(r"^make test-all\b", TEXT, re.MULTILINE)
    assert "\nmake test-all\n" in (ROOT / ".ci" / "run").read_text()
    (command,) = re.findall(r"^test-all:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert " -m pytest " in command and command.count(" -m ") == 1  # no tests are deselected


@pytest.mark.slow
def test_the_python_examples_run(tmp_path, monkeypatch, one_device, capsys):
    """A newcomer's script, in the folder of the images, and then the parts for a loop."""
    small.write_images(tmp_path / "photos", 4)
    small.write_classes(tmp_path / "flowers", train=(4, 4)).joinpath("train").rename(tmp_path / "moved")
    (tmp_path / "flowers").rmdir()
    (tmp_path / "moved").rename(tmp_path / "flowers")
    monkeypatch.chdir(tmp_path)
    shallow_configs(monkeypatch)
    script, parts = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(script.splitlines()) <= 10
    found = {}
    exec(script, found)
    assert found["features"].pooled.shape == (8, 128)
    assert (tmp_path / "runs" / "photos_timm" / "model.safetensors").exists()
    exec(parts, found)
    assert np.isfinite(float(found["metrics"]["loss"])) and int(found["state"].step) == 1
    assert found["cells"].shape == (32, 8, 8, 27)
    assert found["out"].mask.mean() == 0.75 and found["out"].prediction.shape == (32, 8, 8, 192)


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", TEXT)) | set(re.findall(r"configs/\w+\.py", TEXT))
    assert named and all((ROOT / name).exists() for name in named), named


def test_every_make_target_and_command_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    from fastmim_jax.cli.commands import COMMANDS

    assert set(re.findall(r"^fastmim (\w+)", TEXT, re.MULTILINE)) <= set(COMMANDS)
