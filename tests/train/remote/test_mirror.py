"""A local work directory is uploaded: checkpoints whole or not at all, whatever fails."""

import shutil
import threading
import time

import pytest

from fastmim_jax.stores.store import Store, StoreError
from fastmim_jax.train import checksums
from fastmim_jax.train.disk_watch import DiskWatch
from fastmim_jax.train.remote import workdir
from fastmim_jax.train.remote.fetch import fetch_newest, fetch_small_files, newest_local
from fastmim_jax.train.remote.layout import (
    Checkpoint,
    checkpoints_of,
    is_small,
    is_whole,
    local_checkpoints,
    outdated,
)
from fastmim_jax.train.remote.mirror import Mirror
from helpers import bucket


@pytest.fixture
def store(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv(bucket.ROOT, str(tmp_path / "bucket"))
    bucket.register()
    return Store("bucket://runs/a")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def write_checkpoint(folder, step, text="x", kind="checkpoints"):
    path = folder / kind / str(step)
    (path / "params").mkdir(parents=True)
    (path / "params" / "0").write_text(f"{text} {step}")
    (path / "position").write_text(str(step))
    checksums.write_checksums(path)


def fail(tmp_path, text):
    (tmp_path / "bucket" / bucket.FAILS).write_text(text)


def works(tmp_path):
    (tmp_path / "bucket" / bucket.FAILS).unlink()


def whole(store):
    objects = store.list()
    return [
        x.step
        for x, names in checkpoints_of(objects).items()
        if is_whole(x, names, store.read(x.sums) or b"")
    ]


def test_files_follow_the_folder(store, folder):
    mirror = Mirror(store, folder, keep=2, keep_every=10)
    (folder / "metrics.jsonl").write_text("1\n")
    (folder / "lock").touch()
    (folder / ".hidden").touch()
    (folder / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    (folder / "checkpoints" / "5.orbax-checkpoint-tmp" / "x").touch()
    for step in (10, 11, 12):
        write_checkpoint(folder, step)
    write_checkpoint(folder, 3, kind="best")
    mirror.sync()
    assert set(checkpoints_of(store.list())) == set(local_checkpoints(folder))
    assert [name for name in store.list() if is_small(name)] == ["metrics.jsonl"]
    (folder / "metrics.jsonl").write_text("1\n2\n")
    write_checkpoint(folder, 13)
    for old in ("checkpoints/10", "checkpoints/11", "best/3"):
        shutil.rmtree(folder / old)
    write_checkpoint(folder, 4, kind="best")
    mirror.sync()
    assert store.read("metrics.jsonl") == b"1\n2\n"
    assert whole(store) == [13, 12, 10, 4] and mirror.newest() == 13


def test_an_interrupted_upload_is_never_whole_and_fetched(store, folder, tmp_path):
    mirror = Mirror(store, folder)
    write_checkpoint(folder, 5)
    mirror.sync()
    write_checkpoint(folder, 6)
    fail(tmp_path, "6/SHA256SUMS")
    with pytest.raises(StoreError, match="slow down"):
        mirror.sync()
    assert "checkpoints/6/params/0" in store.list() and whole(store) == [5]
    other = tmp_path / "other"
    other.mkdir()
    assert fetch_newest(store, store.list(), other, "checkpoints", print) == 5 == newest_local(other)
    works(tmp_path)
    mirror.sync()
    assert whole(store) == [6, 5]


def test_a_checkpoint_that_is_being_deleted_is_left_alone(store, folder, monkeypatch):
    mirror, upload = Mirror(store, folder), store.upload
    for step in (5, 6):
        write_checkpoint(folder, step)
    (folder / "checkpoints" / "5" / "position").unlink()

    def delete_first(name, path):
        path.unlink()
        upload(name, path)

    mirror.sync()
    assert whole(store) == [6]
    write_checkpoint(folder, 7)
    monkeypatch.setattr(store, "upload", delete_first)
    mirror.sync()
    assert whole(store) == [6] and not any(name.startswith("checkpoints/7") for name in store.list())


def test_a_damaged_object_is_passed_over(store, folder, tmp_path):
    for step in (5, 6):
        write_checkpoint(folder, step)
    (folder / "config.json").write_text("{}")
    Mirror(store, folder).sync()
    store.write("checkpoints/6/params/0", b"y 6")
    other, lines = tmp_path / "other", []
    other.mkdir()
    assert fetch_newest(store, store.list(), other, "checkpoints", lines.append) == 5
    assert "checkpoints/6 is damaged (params/0: its checksum differs)" in lines[1]
    fetch_small_files(store, store.list(), other, reading=True)
    assert (other / "config.json").read_text() == "{}"


def test_another_checkpoint_of_a_step_replaces_it(store, folder):
    mirror = Mirror(store, folder)
    write_checkpoint(folder, 5)
    mirror.sync()
    shutil.rmtree(folder / "checkpoints" / "5")
    write_checkpoint(folder, 5, "other")
    second = Mirror(store, folder)
    second.assume(small=True)
    second.sync()
    assert store.read("checkpoints/5/params/0") == b"other 5" and whole(store) == [5]


def test_failures_are_told_and_stop_the_run_only_by_key(store, folder, tmp_path, monkeypatch):
    class Nothing:
        directory, failed_in_a_row = folder, 0
        check = staticmethod(lambda: "")
        log = staticmethod(lambda text: printed.append(text))
        take_failures = wait = staticmethod(lambda: [])
        newest_written = staticmethod(lambda: 7)

    printed, now, saved = [], [0.0], []
    mirror = Mirror(store, folder, clock=lambda: now[0])
    (folder / "metrics.jsonl").write_text("1\n")
    fail(tmp_path, "metrics")
    monkeypatch.setattr(workdir, "_CURRENT", mirror)
    assert not mirror._try(now=True) and not mirror._try(now=True) and mirror.failures == 2
    now[0] = 100.0
    DiskWatch(Nothing, Nothing, 3, 0.0).check(lambda: saved.append(1))
    assert "an upload failed (503: slow down" in printed[0] and len(printed) == 1 and not saved
    with pytest.raises(Exception, match="nothing could be uploaded to bucket://runs/a for 50 s .*step 7"):
        DiskWatch(Nothing, Nothing, 3, 50.0).check(lambda: saved.append(1))
    works(tmp_path)
    assert mirror._try(now=True) and mirror.take_lines() == [
        "bucket://runs/a: uploads work again, everything is there"
    ]


def test_the_end_waits_for_an_upload_no_longer_than_it_may(store, folder, monkeypatch):
    mirror, answer = Mirror(store, folder), threading.Event()
    (folder / "metrics.jsonl").write_text("1\n")
    monkeypatch.setattr(store, "write", lambda name, content: answer.wait(60))
    start = time.monotonic()
    assert not mirror.flush(0.2) and time.monotonic() - start < 10
    answer.set()
    assert mirror.flush(30.0)


def test_a_run_that_was_taken_over_uploads_nothing(store, folder):
    lost = [""]
    mirror = Mirror(store, folder, may_write=lambda: lost[0])
    (folder / "a").touch()
    lost[0] = "another run is there"
    assert not mirror.flush(5.0) and not store.list() and mirror.problem(0.0) == "another run is there"


def test_old_ones_are_those_that_the_run_deletes():
    steps = {Checkpoint("checkpoints", step): b"" for step in (2, 4, 6, 8)}
    steps[Checkpoint("best", 2)] = steps[Checkpoint("best", 6)] = b""
    found = outdated(steps, [Checkpoint("checkpoints", 2)], keep=2, keep_every=0)
    assert found == [Checkpoint("checkpoints", 4), Checkpoint("best", 2)]
