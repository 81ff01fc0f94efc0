"""Zip files of images: classes and splits in them, reading by threads and forks, and damaged files."""

import concurrent.futures
import os
import subprocess
import sys
import zipfile

import pytest

from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.sources import open_source, split_names
from fastmim_jax.data.sources.zip_file import ZipSource
from fastmim_jax.errors import UserError

BYTES = {"cat/1.png": b"one", "cat/x/2.JPG": b"two" * 200, "dog/3.png": b"three"}


def write(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def names(source):
    return [os.path.relpath(source.name(i), source.path) for i in range(len(source))]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("root", ["", "images/", "a/b/"])
def test_classes_and_what_is_left_out(tmp_path, method, root):
    members = {root + name: data for name, data in BYTES.items()}
    others = ("notes.txt", "bird/a.mp4", "nothing/", ".hidden/4.png", "cat/.5.png")
    members |= {root + name: b"" for name in others} | {"__MACOSX/cat/1.png": b""}
    source = open_source(write(tmp_path / "a.zip", members, method))
    if root:  # the single folder around all of it is entered
        assert source.path == f"{tmp_path}/a.zip/{root.rstrip('/')}"
    assert names(source) == sorted(BYTES) and source.classes == ("cat", "dog")
    assert [source.label(i) for i in range(3)] == [0, 0, 1]
    assert {name: source[i] for i, name in enumerate(names(source))} == BYTES
    assert source.notices == (
        f"{source.path}: 2 other files ignored (1 .mp4, 1 .txt)",
        f"{source.path}: 2 folders without images are no classes: bird (1 .mp4), nothing (empty)",
    )


def test_splits(tmp_path):
    path = write(tmp_path / "a.zip", {f"set/{s}/{name}": b"x" for s in ("val", "train") for name in BYTES})
    assert split_names(path) == ("train", "val")
    assert names(open_source(path, "val")) == sorted(BYTES)
    assert open_source(path).path == f"{path}/set/train"
    with pytest.raises(UserError, match="'test' was asked for, but the zip file .* holds train, val"):
        open_source(path, "test")
    flat = write(tmp_path / "b.zip", {"1.png": b"x", "2.png": b"y"})
    assert split_names(flat) == () and open_source(flat).classes == ()
    one = write(
        tmp_path / "c.zip", {"train/cat/1.png": b"x"}
    )  # a folder with the name of a split is a split
    assert split_names(one) == ("train",) and open_source(one).classes == ("cat",)


def _read_all(source):
    return [source[i] for i in range(len(source))]


FORKS = """
import os, sys
from fastmim_jax.data.sources import open_source

source = open_source(sys.argv[1])
expected = [source[i] for i in range(len(source))]  # opened before the fork
children = [os.fork() for _ in range(2)]  # four processes, which read at the same time
for _ in range(20):
    assert [source[i] for i in range(len(source))] == expected
if all(children):
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
elif children[0]:
    os._exit(0)
else:
    code = os.waitpid(children[1], 0)[1] if children[1] else 0
    os._exit(bool(code))
"""


@pytest.mark.slow
def test_threads_and_forks_read_the_same(tmp_path):
    members = {f"{i:03}.png": os.urandom(100 + i) * 3 for i in range(60)}
    path = write(tmp_path / "a.zip", members)
    source, expected = open_source(path), list(members.values())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(data == expected for data in pool.map(lambda _: _read_all(source), range(8)))
    done = subprocess.run([sys.executable, "-c", FORKS, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_damaged_files(tmp_path):
    good = write(tmp_path / "good.zip", {"1.png": os.urandom(500), "2.png": os.urandom(500)})
    data = good.read_bytes()
    for name, content, message in [
        ("empty", b"", "empty.zip is empty; expected a complete one, copied again if it is cut"),
        ("cut", data[:-30], r"cut.zip cannot be read as a file of kind zip \(File is not a zip file\)"),
        ("html", b"<html>", "html.zip cannot be read"),
    ]:
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_source(tmp_path / f"{name}.zip")
        with pytest.raises(UserError, match=message):
            split_names(tmp_path / f"{name}.zip")
    (tmp_path / "flipped.zip").write_bytes(data[:100] + b"\0\1\2\3" + data[104:])
    source = open_source(tmp_path / "flipped.zip")
    with pytest.raises(DecodeError, match="cannot be read: "):
        read_image(source, 0)
    with pytest.raises(UserError, match="holds no images, but 1 other file .1 .txt."):
        open_source(write(tmp_path / "texts.zip", {"a.txt": b""}))
    with pytest.raises(UserError, match="none.zip is empty; expected images in it"):
        ZipSource(str(write(tmp_path / "none.zip", {})))


def test_other_compression_is_refused(tmp_path):
    path = write(tmp_path / "a.zip", {"1.png": b"x"}, zipfile.ZIP_BZIP2)
    with pytest.raises(
        UserError, match="1 images of .*1.png, are encrypted or compressed by another method"
    ):
        open_source(path)
