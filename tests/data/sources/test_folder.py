"""Folders of images: listing, labels, splits, pickling and error messages."""

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import open_source
from fastmim_jax.data.sources.folder import FolderSource
from fastmim_jax.errors import UserError


def put(path, colour=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.zeros((4, 4, 3), np.uint8))
    else:
        Image.new("RGB", (4, 4), colour).save(path, path.suffix.lower().replace("jpg", "jpeg")[1:])
    return path


def names(source):
    return [os.path.relpath(source.name(i), source.path) for i in range(len(source))]


@pytest.mark.slow
def test_importing_loads_no_jax_and_no_tfds():
    modules = "sources, decode, augment, randaugment, undecodable, workers"
    code = f"import sys; from fastmim_jax.data import {modules}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert not loaded & {"jax", "tensorflow", "tensorflow_datasets", "skimage", "torch"}


def test_flat_folder(tmp_path):
    for name in ("b.JPG", "a.png", "c.jpeg", "d.webp", "e.bmp", "f.npy", ".hidden.png"):
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "LICENSE").write_text("no image")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert names(source) == ["a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.npy"]
    assert source.classes == () and source.label(0) == -1
    assert source.notices == (f"{tmp_path}: 2 other files ignored (1 .txt, 1 without extension)",)
    assert source[0] == (tmp_path / "a.png").read_bytes()
    assert source.name(-1).endswith("f.npy")
    with pytest.raises(IndexError):
        source.name(6)


def test_class_folders(tmp_path):
    for name in ("dog/x/2.png", "dog/1.png", "cat/z.png", "cat/.cache/no.png", ".git/no.png"):
        put(tmp_path / name)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "alone.png")
    source = FolderSource(tmp_path)
    assert names(source) == ["alone.png", "cat/z.png", "dog/1.png", "dog/x/2.png"]
    assert source.classes == ("cat", "dog")
    assert [source.label(i) for i in range(4)] == [-1, 0, 1, 1]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b/1.png", "a/2.png", "a/10.png", "a-b/3.png", "c.png"):
        put(tmp_path / name)
    expected = names(FolderSource(tmp_path))
    assert expected == sorted(expected)
    listing, scandir = [], os.scandir

    class Backwards:
        def __init__(self, folder):
            self.entries = sorted(scandir(folder), key=lambda e: e.name, reverse=True)
            listing.append(folder)

        __enter__ = lambda self: self.entries  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setattr(os, "scandir", Backwards)
    assert names(FolderSource(tmp_path)) == expected and listing


def test_links_are_followed_but_cycles_are_not(tmp_path):
    put(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    put(root / "real" / "2.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "back").symlink_to(root)
    assert names(FolderSource(root)) == ["linked/1.png", "real/2.png"]


def test_odd_file_names(tmp_path):
    for name in ("line\nbreak.png", "ünï.png", "a: b.png"):
        put(tmp_path / name)
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(raw, "wb") as file:
        file.write(b"bytes")
    source = pickle.loads(pickle.dumps(FolderSource(tmp_path)))
    assert len(source) == 3 and "name that is not UTF-8: 1 (\\xff\\xfe.png)" in source.notices[0]


def test_pickle_and_repr_are_stable(tmp_path):
    for i in range(5):
        put(tmp_path / f"class{i % 2}" / f"{i}.png", (i, 0, 0))
    source = FolderSource(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source) == f"FolderSource('{tmp_path}', 5 images, 2 classes)"
    for i in range(5):
        same = copy[i], copy.name(i), copy.label(i)
        assert same == (source[i], source.name(i), source.label(i))


def test_split_folders_are_entered(tmp_path):
    put(tmp_path / "train" / "cat" / "1.png")
    put(tmp_path / "val" / "cat" / "2.png")
    assert names(open_source(tmp_path)) == ["cat/1.png"]
    assert open_source(tmp_path).classes == ("cat",)
    assert names(open_source(tmp_path, "val")) == ["cat/2.png"]
    with pytest.raises(UserError, match="'test' was asked .* holds train, val"):
        open_source(tmp_path, "test")
    put(tmp_path / "plane" / "3.png")
    assert open_source(tmp_path).classes == ("cat",)
    shutil.rmtree(tmp_path / "val")  # without a split to evaluate on, "train" is a class (railways)
    assert open_source(tmp_path).classes == ("plane", "train")
    with pytest.raises(UserError, match="not divided into splits"):
        open_source(tmp_path, "val")


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match=r"nope does not exist \(nor its parent"):
        open_source(tmp_path / "gone" / "nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty; expected images"):
        open_source(tmp_path / "empty")
    for name in ("notes.md", "png"):
        (tmp_path / name).write_text("no image")
        with pytest.raises(UserError, match=f"{name} is a file; expected a folder of images"):
            open_source(tmp_path / name)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.txt", "b.txt", "c.zip", "README"):
        (other / name).write_text("")
    with pytest.raises(UserError, match="4 other files .2 .txt.*1 without extension"):
        open_source(other)


def test_no_permission(tmp_path, monkeypatch):
    put(tmp_path / "a" / "1.png")

    def refuse(folder):  # chmod does not stop root
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="No permission to read the folder .*chmod"):
        open_source(tmp_path)
