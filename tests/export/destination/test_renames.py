"""Renames that swap two paths, or refuse a name that is taken."""

import pytest

from fastmim_jax.export.destination import renames


@pytest.mark.parametrize("linux", [True, False])
def test_a_name_that_is_taken_is_refused(linux, tmp_path, monkeypatch):
    if not linux:
        monkeypatch.setattr(renames, "_renameat2", lambda *_: False)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        renames.rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"
    renames.rename_new(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "a" and not (tmp_path / "a").exists()


def test_a_file_and_a_folder_are_swapped(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    if not renames.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("the system has no renameat2")
    assert (tmp_path / "a").read_text() == "b" and (tmp_path / "b").is_dir()
    with pytest.raises(FileNotFoundError):
        renames.exchange(tmp_path / "a", tmp_path / "missing")
