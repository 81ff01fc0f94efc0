"""Commands in README.md and docs/ are accepted by the command line, and calls fit the Python interface."""

import ast
import inspect
import re
import shlex
import tomllib

import pytest

import fastmim_jax
from fastmim_jax.api.settings import find_key
from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.flags import flag_name
from fastmim_jax.cli.parse import parse
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.saved_config import flatten
from fastmim_jax.segment_config import segment_config
from fastmim_jax.validate import check_values
from helpers.code_blocks import NOTEBOOKS, PAGES, ROOT, blocks, cells

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PLACEHOLDERS = {
    "--config=...": "--config=configs/mae.py",
    "--coordinator=HOST:PORT": "--coordinator=host:9876",
    "--processes=N": "--processes=2",
    "--process=I": "--process=0",
}
SETTINGS = {
    "pretrain": pretrain_config,
    "make_step": pretrain_config,
    "finetune": finetune_config,
    "segment": segment_config,
}


SHELL = [(path.name, block) for path in PAGES for block in blocks(path, "sh")]
PYTHON = [(path.name, block) for path in PAGES for block in blocks(path, "python")]
PYTHON += [(path.name, "\n".join(cells(path))) for path in NOTEBOOKS]


def check_line(words):
    """Check one command of a shell block."""
    program = words[0]
    if "fastmim" in words[:2]:  # also `srun fastmim ...`
        check_fastmim(words[words.index("fastmim") + 1 :])
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
    elif program == "pip":
        extras = [name for word in words for name in re.findall(r"\[([\w,]+)\]", word)]
        assert {name for names in extras for name in names.split(",")} <= set(EXTRAS)
    elif words[:2] == ["docker", "build"]:
        given = re.findall(r"(\w+)=(\w+)", " ".join(words))
        dockerfile = (ROOT / "Dockerfile").read_text()
        assert all(f"ARG {name}=" in dockerfile and value in dockerfile for name, value in given)
    elif words[:2] == ["docker", "run"]:
        image = next(index for index, word in enumerate(words) if word.startswith("fastmim_jax"))
        check_fastmim(words[image + 1 :])
    else:
        assert program in ("git", "cd"), f"no test knows how to check: {' '.join(words)}"


def check_fastmim(words):
    """Parse a command as the command line does, and check the values of its config."""
    name, *flags = [PLACEHOLDERS.get(word, word) for word in words]
    values, _ = parse(name, COMMANDS[name], flags)
    if "config" in COMMANDS[name].flags:
        check_values(values.config)


@pytest.mark.parametrize(("page", "block"), SHELL, ids=[name for name, _ in SHELL])
def test_shell_blocks_are_accepted(page, block, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            check_line(words)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_the_text_have_their_flags(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`fastmim ([^`]+)`", text):
        name, *words = code.split()
        if name != "COMMAND" and not name.startswith("-"):
            known = {flag_name(flag) for flag in COMMANDS[name].flags}
            typed = {
                word[2:].partition("=")[0].partition(".")[0] for word in words if word.startswith("--")
            }
            assert typed <= known | {"help"}, code


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[name for name, _ in PYTHON])
def test_python_blocks_call_what_exists(page, block):
    tree = ast.parse(block)
    compile(block, page, "exec")
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Attribute(value=ast.Name(id="fastmim_jax"), attr=name):
                assert name in fastmim_jax.__all__
                check_call(call, getattr(fastmim_jax, name), name)
            case ast.Attribute(value=ast.Name(id="model"), attr=name):
                check_call(call, getattr(fastmim_jax.Model, name), name, before=1)


def check_call(call, function, name, before=0):
    """Check that the arguments of a call fit a function, and that settings are config keys."""
    positional = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    bound = inspect.signature(function).bind(*[None] * (before + len(positional)), **keywords)
    for setting in bound.arguments.get("settings", ()):
        find_key(setting, flatten(SETTINGS[name]()), name)


def test_mistakes_are_noticed():
    with pytest.raises(UserError, match="did you mean --workdir"):
        check_line("fastmim probe --workdri=runs/mine".split())
    with pytest.raises(UserError, match="image_size"):
        check_line("fastmim bench --config=configs/mae.py --config.data.image_size=(0,0)".split())
    with pytest.raises(TypeError, match="folder"):
        test_python_blocks_call_what_exists("", "fastmim_jax.load('runs', folder=1)")
    with pytest.raises(UserError, match="epochs"):
        test_python_blocks_call_what_exists("", "fastmim_jax.pretrain('a', 'b', epoch=3)")
