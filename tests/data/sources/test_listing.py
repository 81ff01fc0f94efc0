"""Listings of folders that do not depend on the file system."""

import os

import pytest

from fastmim_jax.data.sources import listing
from fastmim_jax.data.sources.listing import extension, list_folder, subfolders
from fastmim_jax.errors import UserError


def test_entries_come_by_name_last_first_without_hidden_ones(tmp_path):
    for name in ("b", "a", ".hidden", "C"):
        (tmp_path / name).mkdir()
    for name in ("c.png", ".DS_Store"):
        (tmp_path / name).touch()
    assert [entry.name for entry in list_folder(tmp_path)] == ["c.png", "b", "a", "C"]
    assert subfolders(tmp_path) == ["C", "a", "b"]


def test_links_to_folders_are_folders(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    assert subfolders(tmp_path) == ["data", "link"]


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def deny(folder):
        raise PermissionError(folder)

    monkeypatch.setattr(listing.os, "scandir", deny)
    with pytest.raises(UserError, match=f"No permission to read the folder {tmp_path}; .*chmod -R u.rX"):
        list_folder(os.fspath(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", "jpg"), ("folder.d/b.tar.Gz", "gz"), ("LICENSE", ""), (".hidden", ""), ("x.", "")],
)
def test_extensions_are_in_lower_case_without_the_dot(name, expected):
    assert extension(name) == expected
