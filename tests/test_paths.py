"""Paths that users type: resolved alike in every flag, or refused before anything is written."""

import os
import socket

import pytest

from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.flags import FLAGS
from fastmim_jax.cli.parse import parse
from fastmim_jax.config import PATH_KEYS
from fastmim_jax.errors import UserError
from fastmim_jax.paths import (
    absolute_place,
    check_output,
    describe_kind,
    from_text,
    is_remote,
    is_store,
    local_path,
    place,
    to_text,
    utf8_path,
)
from fastmim_jax.saved_config import DEFAULTS, flatten
from helpers.commands import refused

QUICKSTART = "--config=configs/quickstart.py"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path


def test_home_and_variables(home, monkeypatch):
    monkeypatch.chdir(home)
    assert local_path("~/x") == local_path("$HOME/x") == f"{home}/x"
    assert local_path("${RUNS}/x y") == f"{home}/runs/x y" and local_path("runs/x") == "runs/x"
    assert local_path("price$5") == "price$5" and local_path("C:/x") == "C:/x"
    for path, message in [
        ("$UNSET/x", "the environment variable UNSET is not set"),
        ("~nobody-of-this-name/x", "no user here is called nobody-of-this-name"),
        ("a\0b", "NUL character"),
    ]:
        with pytest.raises(UserError, match=f"--out=.*{message}"):
            local_path(path, "--out=")
    (home / "$UNSET").mkdir()
    assert local_path("$UNSET/../$UNSET") == "$UNSET/../$UNSET"


@pytest.mark.parametrize(
    "address", ["gs://b/r", "s3://b", "HTTP://x/y.tar", "hf://a", "gs:/b/r", "file:///x"]
)
def test_addresses_are_no_folders(home, monkeypatch, capsys, address):
    monkeypatch.chdir(home)
    assert is_remote(address)
    commands = [
        ["features", "--workdir=w", "--images=i", f"--out={address}"],
        ["convert", "a.pth", address],
        ["prepare", address, "b"],
        ["prepare", "sample", address],
        ["bench", QUICKSTART, f"--workdir={address}"],
    ]
    if not is_store(address):
        commands += [
            ["pretrain", QUICKSTART, f"--workdir={address}"],
            ["pretrain", QUICKSTART, "--workdir=w", f"--config.data.path=sample::{address}"],
            ["pretrain", QUICKSTART, "--workdir=w", f"--config.init={address}"],
            ["probe", "--workdir=w", f"--test={address}"],
            ["verify", address, "b"],
        ]
    for words in commands:
        message = refused(capsys, *words)
        assert f"{address} is an address" in message and "type " in message
    assert not os.listdir(home)


def test_places_in_object_stores(home, monkeypatch):
    monkeypatch.chdir(home)
    assert place("GS://Bucket/Run/") == absolute_place("gs://Bucket/Run") == "gs://Bucket/Run"
    assert place("~/x") == f"{home}/x" and absolute_place("x") == f"{home}/x"
    assert is_store("memory://x") and not any(map(is_store, ("https://x/y", "file:///x", "gs:/b", "C:/x")))
    config = os.path.join(os.path.dirname(__file__), "..", "configs", "quickstart.py")
    words = [f"--config={config}", "--workdir=s3://b/r/", "--config.init=gs://b/a"]
    values, _ = parse("pretrain", COMMANDS["pretrain"], [*words, "--config.data.path=sample::gs://b/d"])
    flat = flatten(values.config)
    assert (values.workdir, flat["init"], flat["data.path"]) == ("s3://b/r", "gs://b/a", "sample::gs://b/d")


def test_every_path_is_resolved(home):
    for name, command in COMMANDS.items():
        flags = [flag for flag in command.flags if FLAGS[flag].resolve]
        words = [f"--{flag}=~/{flag}" for flag in flags] + [f"--{key}=x" for key in command.required]
        words = [word for word in words if not word.endswith("=x") or word[2:-2] not in (*flags, "config")]
        words += [QUICKSTART] if "config" in command.flags else []
        values, paths = parse(name, command, [*words, *["$RUNS/p"] * len(command.paths)])
        assert all(values[flag].value == f"{home}/{flag}" for flag in flags)
        assert paths == [f"{home}/runs/p"] * len(command.paths)
    typed = {flag for flag, x in FLAGS.items() if x.value in ("DIR", "FILE", "FILE_OR_DIR", "FILE.png")}
    assert typed == {flag for flag, x in FLAGS.items() if x.resolve}


def test_paths_of_the_config_are_absolute(home, monkeypatch):
    monkeypatch.chdir(home)
    config = os.path.join(os.path.dirname(__file__), "..", "configs", "quickstart.py")
    words = [f"--config={config}", "--workdir=w", "--config.init=$RUNS/a", "--config.monitor.path=m"]
    words += ["--config.data.path=sample::~/a::tfds:mnist:d", "--config.data.eval_path=shard-{0..1}.tar"]
    values, _ = parse("pretrain", COMMANDS["pretrain"], words)
    keys = [key for key in PATH_KEYS if key in flatten(values.config)]
    assert [flatten(values.config)[key] for key in keys] == [
        f"{home}/runs/a",
        f"sample::{home}/a::tfds:mnist:{home}/d",
        f"{home}/shard-{{0..1}}.tar",
        f"{home}/m",
        "",
    ]


def test_every_key_with_a_path_is_listed():
    keys = {key for config in DEFAULTS.values() for key in flatten(config())}
    names = ("init", "path", "eval_path", "legend", "masks")
    assert {key for key in keys if key.rpartition(".")[2] in names} == set(PATH_KEYS)


def test_outputs_are_checked_without_a_trace(tmp_path):
    check_output(tmp_path / "a" / "b" / "c.csv")
    check_output(tmp_path / "a", folder=True)
    assert not os.listdir(tmp_path)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    check_output(tmp_path / "file")
    for path, message in [
        (tmp_path, "is a folder, expected the name of a file"),
        (f"{tmp_path}/new/", "ends with a slash"),
        (tmp_path / "fifo", "is a FIFO"),
        ("/dev/null", "is a device"),
        (tmp_path / "file" / "x.csv", "cannot be written"),
        (tmp_path / ("n" * 300), "cannot be written"),
    ]:
        with pytest.raises(UserError, match=f"--out=.*{message}.*type"):
            check_output(path, "--out=")
    with pytest.raises(UserError, match="is a file, expected the name of a folder"):
        check_output(tmp_path / "file", folder=True)


def test_only_an_older_result_may_be_replaced(tmp_path):
    file = tmp_path / "x.csv"
    file.touch()
    check_output(file, is_result=lambda path: False)
    file.write_text("mine")
    check_output(file, is_result=lambda path: path.read_text() == "mine")
    with pytest.raises(UserError, match="--out=.*x.csv is a file that this command has not written: type"):
        check_output(file, "--out=", is_result=lambda path: False)
    assert file.read_text() == "mine" and os.listdir(tmp_path) == ["x.csv"]


def test_kinds(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    server.bind("socket")
    assert [describe_kind(tmp_path / name) for name in ("loop", "socket", "none", ".")] == [
        "a link to itself or to nothing",
        "a socket",
        "",
        "a folder",
    ]
    server.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("caf\udce9", r"caf\xe9"),
        ("caf\u00e9", "caf\u00e9"),
        (r"caf\xe9", r"caf\\xe9"),
        ("a\\b", "a\\b"),
        (r"a\\b", r"a\\\\b"),
        ("\udcff\\", r"\xff\\"),
    ],
)
def test_names_as_text_and_back(name, text):
    assert to_text(name) == text and from_text(text) == name
    text.encode()


def test_surrogates_that_stand_for_no_byte():
    assert to_text("\ud800x").encode() == rb"\ud800x"


@pytest.mark.slow
def test_folders_that_libraries_write_have_names_in_utf8(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert utf8_path("caf\u00e9") == "caf\u00e9"
    for words in (["pretrain", QUICKSTART, "--workdir=caf\udce9"], ["prepare", "sample", "caf\udce9"]):
        message = refused(capsys, *words)
        assert r"caf\xe9 is not UTF-8" in message and "type another path" in message
    assert not list(tmp_path.iterdir())
