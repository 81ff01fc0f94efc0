"""A run that is killed, at any step and by any signal, resumes with the same losses."""

import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.__main__ import main
from helpers.commands import refused
from helpers.processes import finish, kill, losses, starter, write_config

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

STEPS = 32
CHANGES = f"""
    config.schedule.steps = {STEPS}
    config.method.backbone.depth = 1
    config.run.update(checkpoint_every=4, eval_every=8)
    config.data.eval_path = config.data.path
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """70 photos' worth of noise: more than four batches an epoch, with a remainder."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(70):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def command(folder, tmp_path_factory):
    return starter(tmp_path_factory.mktemp("config"), folder, CHANGES)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The work directory of the run that is never killed."""
    return tmp_path_factory.mktemp("complete")


@pytest.fixture(scope="module")
def never_killed(command, workdir):
    output = finish(command(workdir))
    assert "broken.jpg" in output
    found = losses(workdir)
    assert len([key for key in found if key[1] == "loss"]) == STEPS
    assert len([key for key in found if key[1] == "eval_loss"]) == 4
    return found


def test_interrupted_by_every_signal_equals_never_killed(command, never_killed, tmp_path):
    """SIGTERM and SIGINT save the current step, SIGKILL leaves an older one; workers change every time."""
    last = 0
    for workers, (number, step) in enumerate(((signal.SIGTERM, 5), (signal.SIGINT, 12))):
        run = kill(command, tmp_path, number, step, f"--config.run.workers={workers}")
        output = finish(run, code=128 + number)
        assert (f"resuming at step {last} of" in output) == bool(last)
        last = max(step for step, _ in losses(tmp_path))
        assert f"stopped by {number.name} after step {last}" in output and "Traceback" not in output
        assert (tmp_path / "checkpoints" / str(last)).is_dir()
    kill(command, tmp_path, signal.SIGKILL, 20, "--config.run.workers=2").wait(60)
    assert last < max(step for step, _ in losses(tmp_path)) < STEPS
    output = finish(command(tmp_path))
    assert "resuming at step" in output and "Traceback" not in output
    assert losses(tmp_path) == never_killed


def test_a_finished_run_is_unchanged(capsys, folder, never_killed, workdir, one_device, tmp_path):
    shutil.copytree(workdir, tmp_path / "copy")
    before = (workdir / "metrics.jsonl").read_text()
    main(["pretrain", write_config(tmp_path, folder, CHANGES), f"--workdir={tmp_path / 'copy'}"])
    assert f"resuming at step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert (tmp_path / "copy" / "metrics.jsonl").read_text() == before


def test_another_config_is_refused_key_by_key(capsys, folder, never_killed, workdir, tmp_path):
    words = ["--config.optimizer.base_lr=0.5", "--config.run.log_every=2"]
    config = write_config(tmp_path, folder, CHANGES)
    message = refused(capsys, "pretrain", config, f"--workdir={workdir}", *words)
    assert "config.optimizer.base_lr was 0.016, is 0.5" in message and "log_every" not in message
