"""A whole run at an address: it trains, is killed, resumes to the bit, and is read by other commands."""

import json
import os
import shutil
import signal
import time

import fsspec
import pytest

from fastmim_jax.__main__ import main
from fastmim_jax.errors import UserError
from fastmim_jax.paths import is_store
from fastmim_jax.stores.cache import cache_folder
from fastmim_jax.stores.store import Store
from fastmim_jax.train.remote import workdir
from fastmim_jax.train.remote.mirror import Mirror
from fastmim_jax.train.remote.reading import local_run
from fastmim_jax.train.remote.workdir import current_mirror, has_own_copy, open_workdir
from fastmim_jax.train.stop_signal import Stopped
from helpers import bucket, small
from helpers.commands import refused
from helpers.processes import Run, finish, losses, write_config

CHANGES = """
    config.schedule.steps = 6
    config.method.backbone.depth = 1
    config.run.update(checkpoint_every=2, keep=2)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(tmp_path, cache):
    files = fsspec.filesystem("memory")
    files.store.clear()
    small.write_images(tmp_path / "photos", 40)
    files.put(str(tmp_path / "photos"), "/b/photos", recursive=True)
    return files


@pytest.mark.slow
def test_a_run_and_its_data_in_memory(memory, tmp_path, capsys, one_device):
    config = write_config(tmp_path, "memory://b/photos", CHANGES)
    main(["pretrain", config, "--workdir=memory://b/run"])
    output = capsys.readouterr()
    assert "fetching memory://b/photos into" in output.err and "everything is uploaded" in output.out
    copy = cache_folder("workdirs", "memory://b/run")
    assert len(losses(copy)) == 24
    assert memory.cat("/b/run/metrics.jsonl") == (copy / "metrics.jsonl").read_bytes()
    steps = {path.split("/")[4] for path in memory.find("/b/run/checkpoints")}
    assert steps == {"4", "6"} and memory.exists("/b/run/pictures/curve.png")
    shutil.rmtree(copy)  # as on another host
    before = memory.cat("/b/run/metrics.jsonl")
    main(["pretrain", config, "--workdir=memory://b/run"])
    assert "resuming at step 6 of 6" in capsys.readouterr().out
    assert memory.cat("/b/run/metrics.jsonl") == before
    assert local_run("memory://b/run") == str(cache_folder("runs", "memory://b/run"))
    main(["convert", "memory://b/run/checkpoints/4", str(tmp_path / "model.safetensors"), "--to=timm"])
    assert (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError, match="has no whole checkpoint of step 5"):
        local_run("memory://b/run", 5)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_run_in_a_bucket_resumes_to_the_bit(tmp_path, cache, monkeypatch):
    objects, images = tmp_path / "bucket", tmp_path / "photos"
    objects.mkdir()
    monkeypatch.setenv(bucket.ROOT, str(objects))
    bucket.register()
    small.write_images(images, 40)
    bucket.put_folder(images, "bucket://b/photos")
    changes = CHANGES.replace("= 6", "= 30")
    variables = {bucket.ROOT: str(objects), "XDG_CACHE_HOME": str(cache)}
    config = write_config(tmp_path, "bucket://b/photos", changes)
    words = ["pretrain", config, "--workdir=bucket://b/run"]
    run = Run(words, variables)
    while not any("checkpoints%2F6%2FSHA256SUMS" in name for name in os.listdir(objects)):
        assert run.running, run.output
        time.sleep(0.02)
    with pytest.raises(UserError, match="bucket://b/run is in use by another process on this host"):
        open_workdir("bucket://b/run", small.config().run).__enter__()
    run.send(signal.SIGKILL)
    run.wait(60)
    copy = cache_folder("workdirs", "bucket://b/run")
    for name in ("checkpoints", "metrics.jsonl", ".run"):  # the disk of the host is lost
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = Run(words, variables)
    while "resuming" not in run.output or not any("F20%2FSHA256SUMS" in x for x in os.listdir(objects)):
        assert run.running, run.output
        time.sleep(0.02)
    run.send(signal.SIGTERM)
    output = finish(run, code=143)
    assert "resuming at step" in output and "everything is uploaded" in output and "Traceback" not in output
    shutil.rmtree(cache)
    finish(Run(words, variables))
    config = write_config(tmp_path, images, changes)
    finish(Run(["pretrain", config, f"--workdir={tmp_path / 'own'}"]))
    assert losses(copy) == losses(tmp_path / "own")
    uploaded = bucket.BucketFileSystem().cat_file("bucket://b/run/metrics.jsonl")
    assert uploaded == (copy / "metrics.jsonl").read_bytes()


def test_a_copy_of_another_run_is_forgotten_and_a_newer_one_kept(memory, tmp_path):
    run, lines = small.config().run, []
    with open_workdir("memory://b/x", run, lines.append, beat=0.05) as folder:
        assert has_own_copy() and current_mirror() is not None
        (folder / "notes.txt").write_text("mine")
    assert not has_own_copy() and current_mirror() is None and is_store("memory://b/x")
    assert memory.cat("/b/x/notes.txt") == b"mine" and lines[-1] == "memory://b/x: everything is uploaded"
    with open_workdir("memory://b/x", run, lines.append, beat=0.05) as folder:
        assert (folder / "notes.txt").exists()
    memory.rm("/b/x", recursive=True)
    with pytest.raises(UserError, match="refused"), open_workdir("memory://b/x", run, beat=0.05) as folder:
        (folder / "config.json").write_text("{}")
        current_mirror().sync()
        raise UserError("refused")
    assert memory.find("/b/x") == ["/b/x/lock"]
    (folder / "notes.txt").touch()
    memory.rm("/b/x", recursive=True)
    with open_workdir("memory://b/x", run, lines.append, beat=0.05) as folder:
        assert not (folder / "notes.txt").exists()
    assert any("was a copy of another run" in line for line in lines)
    assert json.loads(memory.cat("/b/x/lock"))["ended"]
    with open_workdir(tmp_path / "local", run) as folder:
        assert folder == tmp_path / "local" and not has_own_copy()


class Second:
    """The second process of a run, without the first."""

    process = 1

    def share(self, name, value):
        return [value, value]


def test_another_process_uploads_the_files_that_only_it_writes(memory, monkeypatch):
    run, lines = small.config().run, []
    memory.pipe("/b/x/bad_files.txt", b"of the first")
    memory.pipe("/b/x/checkpoints/2/SHA256SUMS", b"")
    monkeypatch.setattr(workdir, "current_peers", Second)
    with open_workdir("memory://b/x", run, lines.append) as folder:
        assert (folder / "bad_files.txt").exists() and current_mirror() is None
        (folder / "bad_files-1.txt").write_text("a.png\tdamaged\t0\n")
        (folder / "bad_files-2.txt").touch()
        (folder / "config.json").touch()
    listed = {"/b/x/bad_files.txt", "/b/x/bad_files-1.txt", "/b/x/checkpoints/2/SHA256SUMS"}
    assert set(memory.find("/b/x")) == listed and lines == []
    with pytest.raises(Stopped), open_workdir("memory://b/x", run, lines.append) as folder:
        with (folder / "bad_files-1.txt").open("a") as file:
            file.write("b.png\tdamaged\t1\n")
        raise Stopped("SIGTERM")
    assert memory.cat("/b/x/bad_files-1.txt").count(b"\n") == 2
    (folder / "bad_files-1.txt").write_text("as fetched by the first process")
    Mirror(Store("memory://b/x"), folder).sync()
    assert memory.cat("/b/x/bad_files-1.txt").count(b"\n") == 2


def test_missing_packages_and_other_flags_are_refused(cache, tmp_path, capsys):
    config = write_config(tmp_path, "sample", CHANGES)
    message = refused(capsys, "pretrain", config, "--workdir=gs://b/run")
    assert 'needs the package gcsfs: type pip install "fastmim_jax[gcs]"' in message
    message = refused(capsys, "bench", config, "--workdir=gs://b/run")
    assert "--workdir=gs://b/run is an address (gs:), expected a local path" in message
