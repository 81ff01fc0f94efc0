"""A run that is killed, at any step and by any signal, resumes with the same losses."""

import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from helpers.processes import finish, kill, losses, starter

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

STEPS = 24
CHANGES = """
    config.schedule.steps = {steps}
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
    return starter(tmp_path_factory.mktemp("config"), folder, CHANGES.format(steps=STEPS))


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
    assert len([key for key in found if key[1] == "eval_loss"]) == 3
    return found


def test_killed_twice_then_resumed_equals_never_killed(command, never_killed, tmp_path):
    kill(command, tmp_path, signal.SIGKILL, 6).wait(60)
    kill(command, tmp_path, signal.SIGKILL, 15).wait(60)
    assert 0 < max(step for step, _ in losses(tmp_path)) < STEPS
    output = finish(command(tmp_path))
    assert "resuming at step" in output
    assert losses(tmp_path) == never_killed


def test_signals_save_the_current_step(command, never_killed, tmp_path):
    for number, step in ((signal.SIGTERM, 5), (signal.SIGINT, 12)):
        output = finish(kill(command, tmp_path, number, step))
        last = max(step for step, _ in losses(tmp_path))
        assert f"stopped by {number.name} after step {last}" in output and "Traceback" not in output
        assert (tmp_path / "checkpoints" / str(last)).is_dir()
    output = finish(command(tmp_path))
    assert f"resuming at step {last} of" in output
    assert losses(tmp_path) == never_killed


def test_any_number_of_workers_resumes_alike(command, never_killed, tmp_path):
    kill(command, tmp_path, signal.SIGKILL, 6, "--config.run.workers=2").wait(60)
    output = finish(command(tmp_path, "--config.run.workers=1"))
    assert "Traceback" not in output
    assert losses(tmp_path) == never_killed


def test_a_finished_run_is_unchanged(command, never_killed, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "metrics.jsonl").read_text()
    output = finish(command(tmp_path))
    assert f"resuming at step {STEPS} of {STEPS}" in output
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_another_config_is_refused_key_by_key(command, never_killed, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    process = command(tmp_path, "--config.optimizer.base_lr=0.5", "--config.run.log_every=2")
    output = finish(process, code=2)
    assert "config.optimizer.base_lr was 0.016, is 0.5" in output
    assert "log_every" not in output and "Traceback" not in output
