"""Objects through fsspec: listed, put whole, fetched once, refused in one sentence."""

import logging

import fsspec
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.stores import transfer
from fastmim_jax.stores.cache import cache_folder, cached_copy
from fastmim_jax.stores.store import Object, Store, StoreError
from fastmim_jax.stores.transfer import check_names, download_all


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """An empty store in memory, and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    files.store.clear()
    return files


def test_objects_are_put_whole_and_listed(tmp_path):
    store = Store("memory://bucket/run/")
    assert store.list() == {} and store.read("a") is None
    store.write("a/b", b"12")
    (tmp_path / "file").write_bytes(b"345")
    store.upload("c", tmp_path / "file")
    assert {name: x.size for name, x in store.list().items()} == {"a/b": 2, "c": 3}
    assert list(Store("memory://bucket/run/c").list()) == [""]
    store.remove(["c", "not there"])
    assert list(store.list()) == ["a/b"] and store.read("a/b") == b"12"
    with pytest.raises(FileNotFoundError):
        store.upload("c", tmp_path / "gone")


def test_what_cannot_be_opened_says_what_to_install():
    with pytest.raises(
        UserError, match=r'--workdir=gs://b needs the package gcsfs: .*"fastmim_jax\[gcs\]"'
    ):
        Store("gs://b", "--workdir=")
    with pytest.raises(UserError, match=r"nonsense:// is no storage that fsspec opens .*type another"):
        Store("nonsense://b/c")


def test_failures_of_a_store_are_one_kind(memory, monkeypatch):
    monkeypatch.setattr(memory, "pipe_file", lambda *args: 1 / 0)
    store = Store("memory://b")
    monkeypatch.setattr(store, "_files", memory)
    with pytest.raises(StoreError, match="division"):
        store.write("a", b"")


def test_a_copy_fetches_only_what_changed(memory, caplog):
    memory.pipe({"/data/a/1": b"one", "/data/a/2": b"two"})
    with caplog.at_level(logging.WARNING):
        folder = cached_copy("memory://data/a")
        assert cached_copy("memory://data/a") == folder
        memory.pipe({"/data/a/2": b"TWO!", "/data/a/3": b"3"})
        memory.rm("/data/a/1")
        cached_copy("memory://data/a")
    assert folder.name == "a" and {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "2": b"TWO!",
        "3": b"3",
    }
    first, second = (record.getMessage() for record in caplog.records)
    assert (
        f"fetching memory://data/a into {cache_folder('data', 'memory://data/a')}: 2 files, 0 kB" in first
    )
    assert second.endswith(": 2 files, 0 kB")
    assert cached_copy("memory://data/a/3").read_bytes() == b"3"


def test_what_is_not_there_or_does_not_fit(memory, monkeypatch):
    with pytest.raises(UserError, match="--images=memory://none does not exist, expected objects there"):
        cached_copy("memory://none", "--images=")
    memory.pipe("/data/a", b"one")
    monkeypatch.setattr("fastmim_jax.stores.cache.SPARED", 2**60)
    with pytest.raises(UserError, match="takes 0 kB more, and .* free: set XDG_CACHE_HOME"):
        cached_copy("memory://data")


def test_names_stay_below_their_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 1)
    store = Store("memory://b")
    for name in ("../x", "/x", "a/b/c"):
        with pytest.raises(UserError, match="has an object"):
            check_names(store, {name: Object(1, ""), "a/b": Object(1, "")})
    with pytest.raises(StoreError):
        download_all(store, {"x": Object(1, "")}, lambda name: tmp_path / name, print)
    assert not list(tmp_path.glob("*x*"))
