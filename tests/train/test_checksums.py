"""Sums of a folder find every change of its files."""

import random
import shutil

import pytest

from fastmim_jax.train import checksums

FILES = {
    "params/d/0a": b"weights" * 99,
    "params/manifest": b"\x00\x01",
    "position/metadata": b"{}",
    "end": b"done",
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "5" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    checksums.write_checksums(tmp_path / "5", leave_out=("end",))
    checksums.add_checksums(tmp_path / "5", ("end", "commit_success.txt"))
    return tmp_path / "5"


def test_an_unchanged_folder_is_whole_and_may_move(folder, tmp_path):
    assert checksums.find_damage(folder) == ""
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / ".nfs0001").touch()
    assert checksums.find_damage(tmp_path / "copy") == ""


@pytest.mark.slow
def test_every_single_bit_counts(folder):
    chance = random.Random(0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for _ in range(300):
        path = chance.choice(files)
        before = path.read_bytes()
        bit = chance.randrange(8 * len(before))
        after = bytearray(before)
        after[bit // 8] ^= 1 << bit % 8
        path.write_bytes(after)
        assert checksums.find_damage(folder), (path, bit)
        path.write_bytes(before)
    assert checksums.find_damage(folder) == ""


def test_truncated_missing_and_unknown_files_are_named(folder):
    (folder / "params/d/0a").write_bytes(b"weights")
    assert checksums.find_damage(folder) == "params/d/0a: its checksum differs"
    (folder / "params/d/0a").unlink()
    assert checksums.find_damage(folder) == "params/d/0a: it is missing"
    (folder / "params/d/0a").write_bytes(FILES["params/d/0a"])
    (folder / "params/d/0b").touch()
    assert checksums.find_damage(folder) == "params/d/0b: it has no checksum"
    for text in ("", "\n", "not a sum\n"):
        (folder / checksums.FILE).write_text(text)
        assert checksums.find_damage(folder) == "SHA256SUMS: it cannot be read"
