"""Two real processes over the network, found as a Slurm job would be, against one."""

import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from fastmim_jax.__main__ import main
from helpers.processes import Run, finish, lines

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.usefixtures("one_device")]

ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from helpers import small

def pretrain():
    config = small.config(steps=6)
    config.method.backbone.depth = 1
    config.data.eval_split = "test"
    config.run.update(checkpoint_every=3, eval_every=3, picture_every=6)
    return config

def finetune():
    config = small.tuning("sample")
    config.schedule.update(steps=4, batch_size=16)
    config.run.update(checkpoint_every=2, eval_epochs=2 * 16 / 4096, log_every=1)
    return config

def wide():
    config = small.config({wide!r}, steps=2)
    config.method.backbone.depth = 1
    return config

def get_config(command):
    return globals()[command]()
"""


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


def run_both(command, folder, *more, name=""):
    """Runs a command in two processes, in folder/command_two, and in this one, in folder/command_one.

    name: of the config in CONFIG, if it is not that of the command.
    """
    config = folder / "processes.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), wide=str(folder / "wide")))
    job = dict(SLURM_JOB_ID=str(free_job()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
    one, two = folder / f"{command}_one", folder / f"{command}_two"
    flags = [command, f"--config={config}:{name or command}", *more]
    runs = [
        Run([*flags, f"--workdir={two}", "--distributed"], dict(job, SLURM_PROCID=rank, SLURM_LOCALID=rank))
        for rank in "01"
    ]
    for run in runs:
        finish(run)
    main([*flags, f"--workdir={one}"])
    return one, two


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return run_both("pretrain", tmp_path_factory.mktemp("processes"))


def test_two_processes_train_as_one(pretrained):
    for name in ("loss", "eval_loss"):
        one, two = (metrics(workdir, name) for workdir in pretrained)
        np.testing.assert_allclose(two, one, rtol=1e-5)  # sums over the batch in another order
    two = pretrained[1]
    assert (two / "pictures" / "step_0000006.png").exists()
    assert {path.name for path in (two / "checkpoints").iterdir()} >= {"3", "6"}


@pytest.mark.exhaustive
def test_two_processes_fine_tune_and_evaluate_as_one(pretrained, tmp_path):
    one, two = run_both("finetune", tmp_path, f"--config.init={pretrained[1]}")
    for name in ("loss", "eval_loss"):
        np.testing.assert_allclose(metrics(two, name), metrics(one, name), rtol=1e-5)
    found = [json.loads((workdir / "evaluation.json").read_text()) for workdir in (one, two)]
    assert found[0]["images"] == found[1]["images"] == 512
    assert found[0]["top1"] == found[1]["top1"] and found[0]["per_class"] == found[1]["per_class"]
    assert (two / "best").exists() and (two / "pictures" / "confusion.png").exists()


@pytest.fixture
def start(tmp_path):
    """-> start(*own flags of each process): two processes of an endless run that meet at a free port."""
    config = tmp_path / "processes.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), wide=""))

    def start(*own):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        workdir = tmp_path / f"run{port}"
        flags = [
            f"--config={config}:pretrain",
            f"--workdir={workdir}",
            "--config.schedule.steps=100000",
        ]
        flags += [
            "--config.run.eval_every=0",
            "--config.run.picture_every=0",
            "--config.run.checkpoint_every=0",
        ]
        flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2", "--config.run.log_every=1"]
        runs = [Run(["pretrain", *flags, f"--process={i}", *more]) for i, more in enumerate(own)]
        return runs, workdir

    return start


def wait_for_step(runs, workdir, step):
    while not any(line["step"] >= step for line in lines(workdir)):
        assert all(run.running for run in runs), [run.output for run in runs]
        time.sleep(0.02)


def test_a_signal_to_one_process_stops_both_after_one_step(start):
    runs, workdir = start([], [])
    wait_for_step(runs, workdir, 5)
    runs[1].send(signal.SIGTERM)
    outputs = [finish(run, code=143) for run in runs]
    (saved,) = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert f"stopped by SIGTERM after step {saved}: the current step is saved" in outputs[0]
    assert lines(workdir)[-1]["step"] == int(saved) and "Traceback" not in "".join(outputs)


@pytest.mark.exhaustive
def test_a_killed_process_ends_the_other_with_a_sentence(start):
    for killed in (0, 1):
        runs, workdir = start([], [])
        wait_for_step(runs, workdir, 1)
        runs[killed].send(signal.SIGKILL)
        output = finish(runs[1 - killed], code=1)
        assert f"fastmim: process {killed} on " in output and "ended without a word" in output
        assert "Traceback" not in output


@pytest.mark.exhaustive
def test_hosts_with_other_configs_do_not_start(start):
    runs, workdir = start([], ["--config.optimizer.base_lr=0.5"])
    for run in runs:
        assert "has config.optimizer.base_lr=0.5, process 0 on" in finish(run, code=2)
    assert not (workdir / "metrics.jsonl").exists()


@pytest.mark.exhaustive
def test_two_processes_measure_one_range_of_values(tmp_path):
    """The first one measures it, and the other takes it."""
    (tmp_path / "wide").mkdir()
    for number in range(16):
        values = np.random.default_rng(number).integers(100 * number, 200 * number + 500, (36, 40, 3))
        np.save(tmp_path / "wide" / f"{number:02}.npy", values.astype(np.uint16))
    one, two = run_both("pretrain", tmp_path, name="wide")
    for workdir in (one, two):
        data = json.loads((workdir / "config.json").read_text())["data"]
        assert (
            data["pixel_dtype"] == "uint16" and data["value_range"][0] < 100 < 3000 < data["value_range"][1]
        )
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    for name in ("loss", "clipped_share"):
        np.testing.assert_allclose(metrics(two, name), metrics(one, name), rtol=1e-5)
