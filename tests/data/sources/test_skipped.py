"""Entries that cannot be read: the same words for them in every kind of listing."""

import os
import tarfile

import pytest
from PIL import Image

from fastmim_jax.data.sources import open_source, skipped
from fastmim_jax.errors import UserError


@pytest.fixture
def odd(tmp_path):
    """A folder with an entry of every kind that is skipped, each named as an image."""
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb"):
        pass
    return folder


def test_in_a_folder(odd):
    source = open_source(odd)
    (notice,) = source.notices
    assert len(source) == 1 and notice.startswith(f"{odd}: 4 entries skipped (")
    for part in (f"{skipped.SPECIAL}: 2 (fifo.png)", f"{skipped.NOWHERE}: 1 (loop.png)"):
        assert part in notice
    assert rf"{skipped.NOT_UTF8}: 1 (caf\xe9.png)" in notice


def test_in_a_list(odd):
    path = odd / "list.txt"
    path.write_bytes(b"good.png\nfifo.png\nzero.png\nloop.png\ncaf\xe9.png\ngone.png\n")
    source = open_source(path)
    assert len(source) == 1 and source.notices == (
        f"{path}: 5 of 6 paths are no files: line 2 (fifo.png: {skipped.SPECIAL}), line 3 (zero.png: "
        f"{skipped.SPECIAL}), line 4 (loop.png: {skipped.NOWHERE}), line 5 (caf\\xe9.png: "
        f"{skipped.NOT_UTF8}), line 6 (gone.png)",
    )


def test_beside_shards(tmp_path):
    with tarfile.open(tmp_path / "a-0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    os.mkfifo(tmp_path / "a-1.tar")
    (notice,) = open_source(tmp_path).notices
    assert notice == f"{tmp_path}: 1 entry skipped ({skipped.SPECIAL}: 1 (a-1.tar))"


def test_alone(odd):
    with pytest.raises(UserError, match="fifo.png is a FIFO; expected"):
        open_source(odd / "fifo.png")
    with pytest.raises(UserError, match="loop.png is a link to itself or to nothing; expected"):
        open_source(odd / "loop.png")
