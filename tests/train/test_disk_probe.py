"""A run whose disk does not answer ends with a sentence, wherever its main thread is."""

import threading
import time

import pytest

from fastmim_jax.train import disk_probe
from fastmim_jax.train.disk_probe import FILE, probed_disk


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(disk_probe, "_PAUSE", 0.01)


def test_a_write_that_never_returns_ends_the_process(tmp_path, monkeypatch, capfd):
    (tmp_path / "checkpoints" / "1200").mkdir(parents=True)
    hung, ended, codes = threading.Event(), threading.Event(), []

    def fsync(handle):
        if hung.is_set():
            ended.wait(30)

    def leave(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(disk_probe.os, "fsync", fsync)
    with probed_disk(tmp_path, 0.1, leave):
        time.sleep(0.3)
        assert not codes
        hung.set()
        assert ended.wait(30)
    assert codes == [2]
    said = capfd.readouterr().err
    assert f"{tmp_path} does not answer" in said and "newest checkpoint is of step 1,200" in said


@pytest.mark.parametrize("trouble", ["full", "gone"])
def test_a_disk_that_answers_with_an_error_is_watched_elsewhere(tmp_path, trouble, monkeypatch):
    codes, workdir = [], tmp_path / "run"
    if trouble == "full":
        workdir.mkdir()
        monkeypatch.setattr(disk_probe, "_write_file", _no_space)
    with probed_disk(workdir, 0.1, codes.append):
        time.sleep(0.3)
    assert not codes and not (workdir / FILE).exists()


@pytest.mark.parametrize("where", ["gs://bucket/run", "no limit"])
def test_buckets_and_runs_without_a_limit_are_not_probed(where, tmp_path):
    before = threading.active_count()
    with probed_disk(where if ":" in where else tmp_path, 45 if ":" in where else 0):
        assert threading.active_count() == before


def _no_space(path):
    raise OSError(28, "No space left on device")
