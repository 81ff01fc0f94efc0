"""Prepared data hold no local path and no name of the original folder, unless `--with_paths` is given."""

import json

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.tools.prepare.command import prepare

WORD = "wisent7431"


@pytest.fixture
def data(tmp_path):
    """Two folders in one of the name WORD, and a list of the images of both; one file is broken."""
    folder, random = tmp_path / WORD, np.random.default_rng(0)
    for name in ("first/cat", "first/dog", "second/cat"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "first" / "cat" / "broken.png").write_bytes(b"no image")
    (tmp_path / "lists").mkdir()
    names = [str(path) for path in sorted(folder.rglob("[01].png"))]
    (tmp_path / "lists" / "all.txt").write_text("\n".join(names) + "\n")
    (folder / "here.txt").write_text("\n".join(names) + "\n")
    return folder


def written(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["folder", "joined", "list", "list beside the images"])
def test_no_path_of_the_original_data_is_kept(data, tmp_path, kind, capsys):
    source = {
        "folder": data / "first",
        "joined": f"{data / 'first'}::{data / 'second'}",
        "list": tmp_path / "lists" / "all.txt",
        "list beside the images": data / "here.txt",
    }[kind]
    out = tmp_path / "out"
    assert prepare(str(source), str(out), workers=1) == 0
    assert WORD.encode() not in written(out) and str(tmp_path).encode() not in written(out)
    found = open_source(out)
    names = [found.name(index) for index in range(len(found))]
    assert len(set(names)) == len(names) - (2 if kind == "list" else 0), names
    assert prepare(str(source), str(out), workers=1) == 0 and "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was prepared with source of other images \(now "):
        prepare(str(data / "second"), str(out), workers=1)


def test_paths_are_there_if_they_are_asked_for(data, tmp_path):
    assert prepare(str(data / "first"), str(tmp_path / "out"), workers=1, with_paths=True) == 0
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert settings["source"] == str(data / "first")
    with pytest.raises(UserError, match=f"was prepared with source .*{WORD}/first"):
        prepare(str(data / "second"), str(tmp_path / "out"), workers=1)
