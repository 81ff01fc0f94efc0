"""convert replaces nothing but unchanged exports of its own."""

import json
import os

import jax
import numpy as np
import pytest

from fastmim_jax.__main__ import main
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from fastmim_jax.export.convert import Options, convert
from fastmim_jax.export.destination import check as ours
from fastmim_jax.export.destination.check import check_apart, check_replaceable, is_export_file
from fastmim_jax.export.destination.contents import FILE, write_contents
from fastmim_jax.export.files.array_files import write_pth, write_safetensors
from fastmim_jax.export.programs.stablehlo import write_function
from helpers import small


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Work directory of a small MAE without training."""
    config = small.config()
    config.method.update(name="mae", target="pixel")
    bundle = ModelBundle(config, {})
    values = jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), bundle.shapes())
    folder = tmp_path_factory.mktemp("source") / "run"
    write_workdir(bundle._replace(variables=values), folder, {})
    return folder


def snapshot(folder):
    """{path: content} of all files and links below a folder, hidden ones too."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


def call(*words):
    """Exit code of `fastmim convert`."""
    try:
        main(["convert", *map(str, words)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--to=hf"]], ids=["ours", "hf"])
def test_folders_are_replaced_until_the_user_touches_them(source, options, tmp_path, capsys):
    path = tmp_path / "out"
    for words in ([], ["--overwrite"], ["--overwrite"]):
        assert call(source, path, *options, *words) == 0
    assert os.listdir(tmp_path) == ["out"] and (path / FILE).exists()
    if not options:  # opening it leaves it an export
        assert call(path, tmp_path / "again") == 0
        assert call(source, path, "--overwrite") == 0
    (path / "thesis.tex").write_text("mine")
    (path / "config.json").write_text("{}")
    (path / "notes").mkdir()
    before = snapshot(path)
    capsys.readouterr()
    assert call(source, path, *options, "--overwrite") == 2
    message = capsys.readouterr().err
    assert "convert did not write there (config.json (changed), notes/, thesis.tex)" in message
    assert "nothing was changed" in message and snapshot(path) == before


@pytest.mark.parametrize("to", ["", "hf", "timm", "stablehlo", "onnx", "official"])
@pytest.mark.parametrize("content", [("thesis.tex",), ("conversion.json", "config.json"), (FILE,)])
def test_a_folder_of_the_users_is_refused(source, to, content, tmp_path, capsys):
    path = tmp_path / ("runs.safetensors" if to == "official" else "runs")
    path.mkdir()
    for name in content:
        (path / name).write_text("[1]")
    before = snapshot(tmp_path)
    assert call(source, path, "--overwrite", *([f"--to={to}"] if to else [])) == 2
    error = capsys.readouterr().err
    assert "type another destination, or move or delete it yourself; nothing was changed" in error
    assert error.count("\n") == 1 and snapshot(tmp_path) == before


def test_a_file_of_the_users_is_refused(source, tmp_path, capsys):
    for name, to in (
        ("x.pth", ""),
        ("x.safetensors", ""),
        ("x", "stablehlo"),
        ("x.onnx", "onnx"),
        ("y", ""),
    ):
        (tmp_path / name).write_text("thesis")
        before = snapshot(tmp_path)
        assert call(source, tmp_path / name, "--overwrite", *([f"--to={to}"] if to else [])) == 2
        assert "nothing was changed" in capsys.readouterr().err and snapshot(tmp_path) == before


def test_where_an_export_may_not_be(source, tmp_path, monkeypatch):
    home = tmp_path / "home" / "me"
    home.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "nothing").symlink_to("nowhere")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    cases = {
        source: "is the source",
        source.parent: "holds the source",
        source / "out": "lies in the source",
        source / "checkpoints" / "1": "lies in the source",
        tmp_path / "link": f"is a link to {source}",
        tmp_path / "nothing": "is a link to nowhere",
        tmp_path / "link" / "out": "lies in the source",
        ".": "is the current folder or holds it",
        "..": "is the current folder or holds it",
        "/": "is the current folder or holds it",
        home: "is the home folder or holds it",
        home.parent: "is the home folder or holds it",
    }
    before = snapshot(tmp_path), snapshot(source)
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            convert(source, path, Options(overwrite=True))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="lies in the source"):
        check_apart(source / "checkpoints" / "0", source / "out")
    assert before == (snapshot(tmp_path), snapshot(source))
    check_apart(source, home / "out")


def test_an_empty_folder_and_a_free_name_may_be_taken(tmp_path):
    check_replaceable(tmp_path, folder=True)
    check_replaceable(tmp_path / "new", folder=True)
    with pytest.raises(UserError, match="is a folder, expected a file or nothing"):
        check_replaceable(tmp_path, folder=False)


def test_files_of_arrays_tell_who_wrote_them(tmp_path):
    pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float16)}
    for write, name in ((write_safetensors, "x.safetensors"), (write_pth, "x.pth")):
        path = tmp_path / name
        write(path, arrays, '{"image_size": [8, 8]}')
        assert is_export_file(path)
        write(path, arrays, overwrite=True)  # without a note: from another program
        assert not is_export_file(path)
        with pytest.raises(UserError, match="is a file that convert has not written"):
            check_replaceable(path, folder=False)


@pytest.mark.slow
def test_a_program_and_its_description_belong_together(source, tmp_path, monkeypatch):
    from fastmim_jax.export.convert import open_source

    path = tmp_path / "x"
    write_function(open_source(source)[0], path, platforms=("cpu",))
    beside = tmp_path / "x.json"
    check_replaceable(path, folder=False, described=True)
    content = json.loads(beside.read_text())
    beside.write_text(json.dumps(content | {"image_size": [1, 1]}))
    with pytest.raises(UserError, match="x.json is in the way, which does not describe"):
        check_replaceable(path, folder=False, described=True)
    path.unlink()
    with pytest.raises(UserError, match="x.json is in the way"):
        check_replaceable(path, folder=False, described=True)
    check_replaceable(path, folder=False)


def test_onnx_files_tell_who_wrote_them(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra: pip install '.[onnx]'")
    from fastmim_jax.export.programs import onnx as programs

    graph = onnx.helper.make_graph([], "g", [], [])
    proto = onnx.helper.make_model(graph)
    onnx.save(proto, tmp_path / "theirs.onnx")
    onnx.helper.set_model_props(proto, {programs.SIGNATURE: programs._sign(proto)})
    onnx.save(proto, tmp_path / "ours.onnx")
    proto.graph.name = "changed"
    onnx.save(proto, tmp_path / "changed.onnx")
    found = {name: is_export_file(tmp_path / f"{name}.onnx") for name in ("theirs", "ours", "changed")}
    assert found == {"theirs": False, "ours": True, "changed": False}


def test_a_list_names_no_file_outside_of_its_folder(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("a")
    write_contents(folder)
    content = json.loads((folder / FILE).read_text())
    content["files"]["../thesis.tex"] = {"bytes": 4, "sha256": ""}
    (folder / FILE).write_text(json.dumps(content))
    from fastmim_jax.export.destination.contents import remove_listed

    assert remove_listed(folder) and os.listdir(tmp_path) == ["thesis.tex"]


def test_names_of_destinations():
    assert ours.is_folder(ours.Path("x"), "timm") and not ours.is_folder(ours.Path("x"), "stablehlo")
    assert not ours.is_folder(ours.Path("x.pth"), "")
