"""Two processes that share no folder train at an address; the first keeps the checkpoints."""

import json
import shutil
import socket

import numpy as np
import pytest

from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.remote.first_process import FirstProcessCheckpoints, open_checkpoints
from helpers import bucket
from helpers.processes import Run, write_config

CHANGES = """
    config.schedule.steps = 6
    config.method.backbone.depth = 1
    config.run.update(checkpoint_every=3, mesh_fsdp=2)
"""


def test_a_process_that_runs_alone_has_its_own_checkpoints(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        assert isinstance(checkpoints, Checkpoints)
    with Checkpoints(tmp_path / "own", alone=True) as own:
        assert own.find_whole().step is None and (tmp_path / "own").is_dir()
    assert {name for name in vars(FirstProcessCheckpoints) if name[0] != "_"} >= {
        "save",
        "restore",
        "latest",
    }


@pytest.fixture
def start(tmp_path, monkeypatch):
    """-> start(): both processes, each with a cache of its own."""
    objects = tmp_path / "bucket"
    objects.mkdir()
    monkeypatch.setenv(bucket.ROOT, str(objects))
    config = write_config(tmp_path, "sample", CHANGES)

    def start():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["pretrain", config, "--workdir=bucket://b/run"]
        words += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
        return [
            Run(
                [*words, f"--process={number}"],
                {bucket.ROOT: str(objects), "XDG_CACHE_HOME": str(tmp_path / f"host{number}")},
            )
            for number in range(2)
        ]

    return start


def finish_all(runs):
    outputs = [run.wait() for run in runs]
    assert [code for code, _ in outputs] == [0, 0], outputs
    return [output for _, output in outputs]


def metrics():
    lines = bucket.BucketFileSystem().cat_file("bucket://b/run/metrics.jsonl").splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_with_sharded_parameters_resume(start, tmp_path):
    """The state is split over both processes, so that saving gathers it and resuming sends it."""
    finish_all(start())
    whole = metrics()
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]
    files = bucket.BucketFileSystem()
    for name in files.find("bucket://b/run/checkpoints/6"):
        files.rm_file(name)
    for host in range(2):
        shutil.rmtree(tmp_path / f"host{host}")
    assert "resuming at step 3 of 6" in finish_all(start())[0]
    np.testing.assert_array_equal(list(metrics().values()), list(whole.values()))
