"""Splits are told by what folders hold, under any usual name; what cannot be read is skipped and told."""

import os
import socket
import zipfile

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import evaluation_split, open_source, split_names
from fastmim_jax.data.sources.splits import divide, split_of
from fastmim_jax.errors import UserError


def _write(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(root / name)


def _zip(root, to):
    with zipfile.ZipFile(to, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return to


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("train", "held_out", "names"),
    [
        ("train", "val", ("train", "val")),
        ("Training", "Testing", ("train", "test")),
        ("TRAIN", "Valid", ("train", "valid")),
        ("train2017", "dev", ("train", "val")),
        ("training_set", "test_set", ("train", "test")),
    ],
)
def test_splits_of_any_usual_name_beside_folders_without_images(tmp_path, zipped, train, held_out, names):
    root = tmp_path / "data"
    _write(
        root, f"{train}/cat/0.png", f"{train}/dog/0.png", f"{held_out}/cat/0.png", f"{held_out}/dog/0.png"
    )
    for folder in ("__MACOSX/train", "annotations", "labels/val"):
        (root / folder).mkdir(parents=True)
        (root / folder / "._0.jpg").write_bytes(b"\0\5\x16\7")
    (root / "annotations/a.xml").write_text("<a/>")
    path = _zip(root, tmp_path / "data.zip") if zipped else root
    assert split_names(path) == names and evaluation_split(path) == names[1]
    source = open_source(path)
    assert (len(source), source.classes) == (2, ("cat", "dog"))
    for name in (names[1], held_out):
        assert len(open_source(path, name)) == 2


def test_images_outside_of_the_splits_are_told(tmp_path):
    _write(tmp_path, "train/a.png", "test/b.png", "unlabeled/c.png", "cover.png")
    source = open_source(tmp_path)
    assert len(source) == 1
    assert (
        "divided into train, test: images elsewhere are ignored (unlabeled, right in it)"
        in source.notices[0]
    )


def test_classes_that_are_named_like_splits(tmp_path):
    _write(tmp_path, "train/a.png", "bus/b.png", "tram/c.png")
    assert split_names(tmp_path) == () and open_source(tmp_path).classes == ("bus", "train", "tram")


def test_empty_splits(tmp_path):
    _write(tmp_path, "train/a.png", "test/b.png")
    (tmp_path / "val").mkdir()
    assert split_names(tmp_path) == ("train", "test") and evaluation_split(tmp_path) == "test"
    with pytest.raises(UserError, match="holds train, test"):
        open_source(tmp_path, "val")


def test_names_and_folders_that_hold_images():
    assert [split_of(name) for name in ("Train", "TESTING", "test2014", "trains", "developer", "")] == [
        *("train", "test", "test"),
        *(None,) * 3,
    ]
    assert divide(["train", "Training", "val"], lambda name: True).left_out == ("Training",)
    assert divide(["train", "x"], lambda name: name == "train").folders == {"train": "train"}
    assert divide(["train"], lambda name: False, images=True).folders == {}


def test_a_work_directory_is_never_training_data(tmp_path):
    _write(tmp_path, "cat/0.png", "dog/0.png", "runs/a/pictures/curve.png")
    (tmp_path / "runs/a/config.json").write_text("{}")
    (tmp_path / "runs/a/metrics.jsonl").write_text("")
    source = open_source(tmp_path)
    assert len(source) == 2 and "work directory or pictures of a run: 1 (runs/a)" in source.notices[0]
    _write(tmp_path, "pictures/curve.png")  # the data themselves are the work directory
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data.json").write_text("{}")
    assert len(open_source(tmp_path)) == 2


def test_entries_that_cannot_be_read_are_skipped_and_told(tmp_path):
    _write(tmp_path, "a/0.png", "b/1.png")
    os.mkfifo(tmp_path / "a/fifo.jpg")
    os.symlink("/dev/zero", tmp_path / "a/zero.png")
    os.symlink("nowhere", tmp_path / "b/dangling.png")
    os.symlink("self.png", tmp_path / "b/self.png")
    os.symlink("..", tmp_path / "b/loop")
    with open(os.fsencode(tmp_path) + b"/a/\xff.png", "wb") as file:
        file.write((tmp_path / "a/0.png").read_bytes())
    os.mkdir(os.fsencode(tmp_path) + b"/\xfe")
    source = open_source(tmp_path)
    assert len(source) == 2 and source.classes == ("a", "b")
    for part in (
        "7 entries skipped (",
        "name that is not UTF-8: 2 (\\xfe)",
        "FIFO, socket or device: 2 (a/fifo.jpg)",
        "link to itself or to nothing: 2 (b/dangling.png)",
        "link to a folder listed already: 1 (b/loop)",
    ):
        assert part in source.notices[0], source.notices
    print(*source.notices)  # in UTF-8


def test_nothing_but_entries_that_cannot_be_read(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.png")
        with pytest.raises(UserError, match=r"holds no images, but socket.png .FIFO, socket or device"):
            open_source(tmp_path)


def test_the_only_folder_with_images_is_entered_for_its_splits(tmp_path, caplog):
    root = tmp_path / "data"
    _write(
        root, *(f"archive/dataset/{split}/{x}/0.png" for split in ("train", "val") for x in ("cat", "dog"))
    )
    (root / "archive" / "dataset" / "labels").mkdir()
    assert split_names(root) == ("train", "val") and evaluation_split(root) == "val"
    source = open_source(root)
    assert len(source) == 2 and source.classes == ("cat", "dog")
    assert f"{root}: its only folder with images, archive/dataset, is used" in caplog.text
    with pytest.raises(UserError, match="'test' was asked for"):
        open_source(root, "test")


def test_a_single_class_is_not_entered(tmp_path):
    _write(tmp_path / "data", "cat/a/0.png", "cat/b/0.png")
    assert split_names(tmp_path / "data") == () and open_source(tmp_path / "data").classes == ("cat",)


def test_classes_whose_names_are_nearly_the_same_are_told(tmp_path, caplog):
    _write(tmp_path, "Tabby cat/0.png", "tabby_cat/0.png", "dog/0.png")
    assert len(open_source(tmp_path).classes) == 3
    assert "differ in case or spaces alone: 'Tabby cat' and 'tabby_cat'" in caplog.text
