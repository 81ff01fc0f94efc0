"""Webdataset shards: labels of every form, the stored index, and damaged files."""

import io
import json
import os
import tarfile

import pytest

from fastmim_jax.data.sources import labelled, open_source, split_names, tar_index
from fastmim_jax.data.sources.webdataset import TarSource
from fastmim_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of the user for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastmim_jax" / "index"


def write(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            data = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def labels(source):
    return [source.classes[source.label(i)] if source.label(i) >= 0 else None for i in range(len(source))]


def test_numbers_are_classes_in_their_order(tmp_path):
    members = {f"a/{i}.{kind}": f"{i}" for i in (10, 9, 2) for kind in ("jpg", "cls")}
    source = open_source(write(tmp_path / "a.tar", members))
    assert source.classes == ("2", "9", "10") and labels(source) == ["10", "9", "2"]
    assert [source[i] for i in range(3)] == [b"10", b"9", b"2"] and labelled(source) is source
    assert source.name(1) == f"{tmp_path}/a.tar/a/9"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"label": 3}, "3"),
        ({"label": 3, "class_name": "cat"}, "cat"),
        ({"class": "dog", "caption": "a dog"}, "dog"),
        ({"caption": "a dog", "label": True}, None),
        (7, "7"),
        ([1], None),
        (None, None),
    ],
)
def test_json(tmp_path, content, name):
    source = open_source(write(tmp_path / "a.tar", {"1.jpg": "x", "1.json": json.dumps(content)}))
    assert labels(source) == [name]


def test_text_is_a_class_unless_it_is_a_caption(tmp_path):
    classes = {f"{i}.{kind}": text for i in range(6) for kind, text in (("jpg", "x"), ("txt", "cd"[i % 2]))}
    source = open_source(write(tmp_path / "classes.tar", classes))
    assert source.classes == ("c", "d") and labels(source) == list("cdcdcd")
    captions = {
        f"{i}.{kind}": text for i in range(6) for kind, text in (("jpg", "x"), ("txt", f"photo {i}"))
    }
    source = open_source(write(tmp_path / "captions.tar", captions))
    assert source.classes == () and source.label(0) == -1
    with pytest.raises(UserError, match="captions.tar has no labels; expected a .cls file with a number"):
        labelled(source)


def test_samples_without_label_or_image(tmp_path):
    members = {
        "1.jpg": "x",
        "1.cls": "0",
        "2.mp4": "x",
        "2.cls": "1",
        "3.jpg": "x",
        "._4.jpg": "x",
        "notes": "",
    }
    source = open_source(write(tmp_path / "a.tar", members | {"5.left.png": "left", "5.cls": "1"}))
    assert len(source) == 3 and source[2] == b"left" and labels(source) == ["0", None, "1"]
    assert source.notices == (f"{tmp_path}/a.tar: ignored 1 sample without one (1 with cls+mp4)",)
    with pytest.raises(
        UserError, match="1 of 3 records of .*a.tar have no label, such as .*a.tar/3; expected"
    ):
        labelled(source)
    with pytest.raises(
        UserError, match="holds no images, but 1 sample without one .1 with mp4.; expected samp"
    ):
        open_source(write(tmp_path / "b.tar", {"1.mp4": "x"}))


@pytest.mark.parametrize("options", [{"format": tarfile.PAX_FORMAT}, {"format": tarfile.GNU_FORMAT}])
def test_long_names(tmp_path, options):
    key = "ü" * 60 + "/" + "n" * 150
    source = open_source(write(tmp_path / "a.tar", {f"{key}.jpg": "x", f"{key}.cls": "1"}, **options))
    assert source[0] == b"x" and source.name(0).endswith(key)


def test_splits_in_the_names_of_shards(tmp_path):
    for number, split in enumerate(("train", "train", "val")):
        write(tmp_path / f"{split}-{number}.tar", {f"{number}.jpg": str(number)})
    assert split_names(tmp_path) == ("train", "val")
    assert list(open_source(tmp_path)) == [b"0", b"1"] and list(open_source(tmp_path, "val")) == [b"2"]


def test_the_index_is_stored_beside_the_shard(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.tar", {"1.jpg": "x", "1.cls": "5", "2.jpg": "yy", "2.cls": "6", "3.mp4": ""})
    first = open_source(path)
    assert "a.tar: indexing 1 of 1 .tar files, once" in caplog.text
    assert sorted(os.listdir(tmp_path)) == [".a.tar.index.npz", "a.tar"]
    built = []
    build = tar_index.build_index
    monkeypatch.setattr(tar_index, "build_index", lambda file: built.append(file) or build(file))
    second = open_source(path)
    assert not built and list(second) == list(first) and labels(second) == ["5", "6"]
    assert second.notices == first.notices and second.name(1) == first.name(1)
    write(path, {"1.jpg": "other", "1.cls": "5"})
    assert list(open_source(path)) == [b"other"] and len(built) == 1
    (tmp_path / ".a.tar.index.npz").write_bytes(b"damaged")
    assert list(open_source(path)) == [b"other"] and len(built) == 2
    os.utime(path, (1, 1))
    open_source(path)
    assert len(built) == 3


def test_the_index_is_stored_in_the_cache_where_the_folder_is_read_only(tmp_path, monkeypatch, cache):
    path, write_file = write(tmp_path / "a.tar", {"1.jpg": "x"}), tar_index.atomic_write

    def refuse(target):
        if target.parent == tmp_path:
            raise UserError("read-only")
        return write_file(target)

    monkeypatch.setattr(tar_index, "atomic_write", refuse)
    open_source(path)
    assert [name.endswith("-a.tar.npz") for name in os.listdir(cache)] == [True]
    monkeypatch.setattr(tar_index, "build_index", None)
    assert list(open_source(path)) == [b"x"]


def test_damaged_files(tmp_path):
    path = write(tmp_path / "good.tar", {f"{i}.jpg": os.urandom(3000) for i in range(3)})
    data = path.read_bytes()
    unreadable = "cannot be read as a file of kind tar"
    for name, content, reason in [
        ("empty", b"", "is empty; expected an uncompressed one"),
        ("cut", data[:9000], rf"{unreadable} \(unexpected end of data\)"),
        ("in_header", data[: 512 + 3072 + 100], unreadable),
        ("text", b"<html>" * 200, unreadable),
        ("damaged", data[:3584] + b"x" * 512 + data[4096:], rf"{unreadable} \(no header at byte 3,584\)"),
    ]:
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.tar {reason}"):
            open_source(tmp_path / f"{name}.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(path, "1.jpg")
    with pytest.raises(UserError, match="expected an uncompressed one; `gunzip` it if it is compressed"):
        open_source(tmp_path / "packed.tar")
    (tmp_path / "unmarked.tar").write_bytes(data[: 3 * 3584])
    source = open_source(tmp_path / "unmarked.tar")
    assert isinstance(source, TarSource) and len(source) == 3
    assert "1 of 1 .tar files end without the mark of a complete archive and may be" in source.notices[0]
