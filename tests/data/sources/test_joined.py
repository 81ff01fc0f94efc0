"""Several data sets as one: order, merged classes, splits, and what is wrong with one of them."""

import pickle

import pytest

from fastmim_jax.data.sources import evaluation_split, joined, labelled, open_source, split_names
from fastmim_jax.errors import UserError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_classes_are_merged_by_name(tmp_path):
    first = put(tmp_path / "a", "dog/1.png", "cat/2.png", "notes.txt")
    second = put(tmp_path / "b", "emu/3.png", "dog/4.png")
    source = pickle.loads(pickle.dumps(open_source(f"{first}::{second}")))
    assert len(source) == 4 and source.classes == ("cat", "dog", "emu") and labelled(source) is source
    assert [source.classes[source.label(i)] for i in range(4)] == ["cat", "dog", "dog", "emu"]
    assert [source[i] for i in range(4)] == [b"cat/2.png", b"dog/1.png", b"dog/4.png", b"emu/3.png"]
    assert source.name(-1) == f"{second}/emu/3.png" and source[-1] == b"emu/3.png"
    assert source.notices == (f"{first}: 1 other file ignored (1 .txt)",)
    assert repr(source).startswith("JoinedSource(FolderSource('") and repr(source).endswith(
        "4 images, 3 classes)"
    )
    with pytest.raises(IndexError):
        source[4]


def test_splits(tmp_path):
    divided = put(tmp_path / "a", "train/cat/1.png", "val/cat/2.png", "val/dog/3.png")
    flat = put(tmp_path / "b", "dog/4.png")
    path = f"{divided}::{flat}"
    assert split_names(path) == ("train", "val") and evaluation_split(path) == "val"
    assert list(open_source(path)) == [b"train/cat/1.png", b"dog/4.png"]
    assert list(open_source(path, "val")) == [b"val/cat/2.png", b"val/dog/3.png"]
    with pytest.raises(
        UserError, match="'test' was asked for, but .*a::.*b holds train, val; expected it in one"
    ):
        open_source(path, "test")


def test_labels_that_are_missing(tmp_path):
    cat, dog = put(tmp_path / "a", "cat/1.png"), put(tmp_path / "b", "dog/1.png", "dog/2.png")
    flat, other = put(tmp_path / "c", "1.png"), put(tmp_path / "d", "cat/1.png", "2.png")
    assert labelled(open_source(f"{cat}::{dog}")).classes == ("cat", "dog")
    for path, message in [
        (f"{cat}::{dog}::{flat}", "c holds 1 image but no class folders"),
        (f"{dog}::{other}", f"{other}/2.png has no label"),
        (
            f"{cat}::{put(tmp_path / 'e', 'cat/9.png')}",
            "have the same single class, cat; expected at least 2",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            labelled(open_source(path))


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert joined.split_path("~/a::b") == [f"{tmp_path}/a", "b"]
    strange = put(tmp_path / "a::b", "1.png")
    assert joined.split_path(strange) == [str(strange)] and len(open_source(strange)) == 1
    with pytest.raises(UserError, match="has an empty path before or after '::'; expected FIRST::SECOND"):
        open_source("a::")
    with pytest.raises(UserError, match="a::a names a data set twice"):
        open_source("a::a")
    with pytest.raises(UserError, match="gone does not exist"):
        open_source(f"{strange.parent}/a::b::gone".replace("a::b", "gone"))
