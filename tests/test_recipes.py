"""Config files: found from anywhere, listed with their variants."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.recipes import find_config_file, list_config_files, list_configs, load_config


def test_every_bundled_file_is_listed_with_its_variants():
    files = {file.name: file for file in list_config_files()}
    assert "vit_b16" in files["configs/mae.py"].variants and not files["configs/quickstart.py"].variants
    assert all(
        file.summary and file.variants or file.name == "configs/quickstart.py" for file in files.values()
    )
    names = list_configs()
    assert "configs/pr_mim.py:mae_vit_b16" in names and "configs/quickstart.py" in names
    assert all(load_config(name).schedule for name in names)


def test_files_are_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config_file("configs/mae.py") == find_config_file("mae.py") == find_config_file("mae")
    (tmp_path / "mine.py").write_text("def get_config(): return 1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_config("mine.py")
    (tmp_path / "mine.py").write_text("x = 1 / 0")
    with pytest.raises(UserError, match="mine.py cannot be run .ZeroDivisionError"):
        load_config("mine.py")
    with pytest.raises(UserError, match="did you mean configs/mae.py"):
        find_config_file("configs/mea.py")
