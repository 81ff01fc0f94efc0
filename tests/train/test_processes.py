"""Two real processes over the network, found as a Slurm job would be, against one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import small

def get_config():
    config = small.config(steps=6)
    config.data.eval_split = "test"
    config.run.update(checkpoint_every=3, eval_every=3, picture_every=6)
    return config
"""


def start(config, workdir, *more, **environment):
    words = [sys.executable, "-m", "fastmim_jax", "pretrain", f"--config={config}", f"--workdir={workdir}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*words, *more], env=environment, **streams)


def finish(*processes):
    for process in processes:
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output


def metrics(workdir, name):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def free_job():
    """A Slurm job number whose port, as JAX derives it, is free."""
    for job in range(700, 4000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", job % 2**12 + (65535 - 2**12 + 1))):
                return job
    raise AssertionError("no free port")


def test_two_processes_train_as_one(tmp_path):
    config = tmp_path / "two_processes.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests")))
    job = dict(SLURM_JOB_ID=str(free_job()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
    ranks = [
        start(config, tmp_path / "two", "--distributed", **job, SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in "01"
    ]
    finish(*ranks)
    finish(start(config, tmp_path / "one"))
    for name in ("loss", "eval_loss"):
        one, two = (metrics(tmp_path / which, name) for which in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5)  # sums over the batch in another order
    assert (tmp_path / "two" / "pictures" / "step_0000006.png").exists()
    assert {path.name for path in (tmp_path / "two" / "checkpoints").iterdir()} >= {"3", "6"}
