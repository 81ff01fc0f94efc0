"""The Dockerfile names extras, files and a Python that the project has."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(name):
    """Return the arguments of all instructions of a name."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
    return re.findall(rf"^{name} (.*)", joined, re.MULTILINE)


def test_files_exist_and_are_sent_to_the_builder():
    sent = set(re.findall(r"^!(.*)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {name for line in instructions("COPY") for name in line.split()[:-1]}
    assert copied == sent and all((ROOT / name).exists() for name in copied)
    built = {
        PROJECT["readme"],
        "LICENSE",
        "fastmim_jax",
        "configs",
        "pyproject.toml",
    }  # what a wheel is made of
    assert built <= copied


@pytest.mark.parametrize("accelerator", ["cpu", "gpu", "tpu"])
def test_every_accelerator_has_its_extra(accelerator):
    (run,) = instructions("RUN")
    cases = dict(re.findall(r"([\w|]+)\) extras=\"?([\w,$]+)", run))
    (extras,) = (value for names, value in cases.items() if accelerator in names.split("|"))
    names = set(extras.replace("$ACCELERATOR", accelerator).split(","))
    assert names <= set(PROJECT["optional-dependencies"])
    assert (accelerator in names) == (accelerator != "cpu")


def test_the_image_is_pinned_and_not_root():
    python = dict(line.split("=") for line in instructions("ARG"))["PYTHON"]
    least = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("."))) >= tuple(map(int, least.split(".")))
    assert instructions("FROM") == ["python:${PYTHON}-slim-bookworm"]
    assert instructions("USER") == ["1000"] and instructions("ENTRYPOINT") == ['["fastmim"]']
    assert "useradd --create-home --uid 1000 " in instructions("RUN")[0]
