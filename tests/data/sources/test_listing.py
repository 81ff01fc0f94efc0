"""Listings of folders: the same on every file system, made once, and what is told of other files."""

import os
from collections import Counter

import pytest

from fastmim_jax.data.sources import evaluation_split, listing, open_source, split_names
from fastmim_jax.data.sources.listing import count_kinds, extension, list_images, subfolders, top_level
from fastmim_jax.errors import UserError


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def age(root):
    """Make all folders look older than the precision of file times."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (0, 0))


def test_the_top_level_of_a_folder(tmp_path):
    for name in ("b", "a", ".hidden", "C"):
        (tmp_path / name).mkdir()
    for name in ("c.zip", "a.ZIP", "t.tar", ".DS_Store", "notes.txt"):
        (tmp_path / name).touch()
    top = top_level(tmp_path)
    assert top.folders == ("C", "a", "b") and not top.images
    assert top.archives == {"parquet": (), "tar": ("t.tar",), "zip": ("a.ZIP", "c.zip")}
    put(tmp_path / "one.png")
    assert top_level(tmp_path).images


def test_links_to_folders_are_folders(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    assert subfolders(tmp_path) == ("data", "link")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def deny(folder):
        raise PermissionError(folder)

    monkeypatch.setattr(listing.os, "scandir", deny)
    with pytest.raises(UserError, match=f"No permission to read the folder {tmp_path}; .*chmod -R u.rX"):
        subfolders(os.fspath(tmp_path))


@pytest.fixture
def scanned(monkeypatch):
    """A Counter of the folders that were listed."""
    counts, scandir = Counter(), os.scandir

    def count(folder):
        counts[os.path.basename(folder)] += 1
        return scandir(folder)

    monkeypatch.setattr(listing.os, "scandir", count)
    return counts


def test_a_folder_is_listed_once_in_a_run(tmp_path, scanned):
    for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png"):
        put(tmp_path / name)
    age(tmp_path)
    scanned.clear()
    for _ in range(3):  # training, the monitor, pictures
        assert split_names(tmp_path) == ("train", "val") and evaluation_split(tmp_path) == "val"
        assert len(open_source(tmp_path)) == len(open_source(tmp_path, "val")) == 2
    open_source(os.path.join(tmp_path, "train", ".."), "val")  # the same real path
    assert {name: scanned[name] for name in ("cat", "dog")} == {
        "cat": 4,
        "dog": 2,
    }  # "cat" also to find an image
    assert scanned[tmp_path.name] == 1 and scanned["val"] == 2
    assert scanned["train"] == 3  # also looked at as a folder of shards


def test_a_changed_folder_is_listed_again(tmp_path, scanned):
    put(tmp_path / "cat" / "1.png")
    assert len(list_images(tmp_path).paths) == 1
    put(tmp_path / "cat" / "2.png")  # within the precision of file times
    assert len(list_images(tmp_path).paths) == 2
    age(tmp_path)
    assert len(list_images(tmp_path).paths) == 2
    put(tmp_path / "cat" / "3.png")
    age(tmp_path / "dog")
    assert len(list_images(tmp_path).paths) == 3
    age(tmp_path)
    list_images(tmp_path)
    (tmp_path / "cat").rename(tmp_path / "kitten")
    assert list_images(tmp_path).folders == {"kitten"}


def test_old_listings_are_forgotten(tmp_path):
    for index in range(2 * listing._CACHED):
        put(tmp_path / str(index) / "1.png")
    age(tmp_path)
    for index in range(2 * listing._CACHED):
        list_images(tmp_path / str(index))
    assert len(listing._listings) == listing._CACHED


def test_other_files_and_folders_without_images_are_told(tmp_path, caplog, monkeypatch):
    for name in ("cat/1.png", "dog/2.jpg", "bird/a.mp4", "bird/x/b.mp4", "notes.txt", "cat/Thumbs.db"):
        put(tmp_path / name)
    (tmp_path / "nothing").mkdir()
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 4 other files ignored (2 .mp4, 1 .db, 1 .txt)",
        f"{tmp_path}: 2 folders without images are no classes: bird (2 .mp4), nothing (empty)",
    ]
    put(tmp_path / "phone" / "3.HEIC")
    monkeypatch.setattr(listing, "has_heif", lambda: False)
    monkeypatch.setattr(listing, "image_extensions", lambda: frozenset({"png", "jpg"}))
    first, second = open_source(tmp_path).notices
    assert first.endswith("; `pip install pillow-heif` (the extra `heif`) reads .heic")
    assert "phone (1 .heic)" in second


def test_many_kinds_are_shortened():
    kinds = Counter({"a": 1_000, "": 3, "b": 2, "c": 1, "d": 1, "e": 1})
    assert count_kinds(kinds) == "1,000 .a, 3 without extension, 2 .b, 1 .c, 1 .d, ..."


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", "jpg"), ("folder.d/b.tar.Gz", "gz"), ("LICENSE", ""), (".hidden", ""), ("x.", "")],
)
def test_extensions_are_in_lower_case_without_the_dot(name, expected):
    assert extension(name) == expected
