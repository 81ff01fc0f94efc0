"""Data sets at addresses are read from a local copy, like any other."""

import fsspec
import pytest

from fastmim_jax.data.sources import open_source, remote, split_names
from fastmim_jax.errors import UserError
from helpers import small


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote._fetch.cache_clear()
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    remote._fetch.cache_clear()


def test_a_folder_with_splits(tmp_path, memory):
    folder = small.write_classes(tmp_path / "photos", train=(3, 2), val=(1, 1))
    memory.put(str(folder), "/bucket/photos", recursive=True)
    source, own = (open_source(path, "train") for path in ("memory://bucket/photos", folder))
    assert split_names("memory://bucket/photos") == ("train", "val")
    assert len(source) == 5 and source.classes == own.classes
    assert [source[i] for i in range(5)] == [own[i] for i in range(5)]
    assert len(open_source(f"memory://bucket/photos/train/class1::{folder / 'val'}")) == 4


@pytest.mark.slow
def test_a_pattern_fetches_its_shards_only(memory):
    webdataset = pytest.importorskip("webdataset")
    for number in range(3):
        with memory.open(f"/b/shard-{number}.tar", "wb") as file, webdataset.TarWriter(file) as writer:
            writer.write({"__key__": str(number), "jpg": b"x" * (number + 1)})
    assert len(open_source("memory://b/shard-{0..1}.tar")) == 2
    assert remote.local_data("tfds:x:y") == "tfds:x:y"


def test_a_list_of_images_is_refused(memory):
    with pytest.raises(UserError, match="memory://b/list.txt is a list of images.*such as memory://b"):
        open_source("memory://b/list.txt")
