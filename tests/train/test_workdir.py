"""The work directory: when it is removed, taken over or refused."""

import json
from contextlib import ExitStack

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.io import append_json_line
from fastmim_jax.train.accumulation import FILE
from fastmim_jax.train.run_lock import run_lock
from fastmim_jax.train.workdir import in_use, prepare_workdir, removed_if_refused
from helpers import small


def start(workdir, **schedule):
    return prepare_workdir(workdir, small.config(**schedule))


def refuse(workdir, write=lambda workdir: None):
    """Begin a start, write a file and refuse the start."""
    with pytest.raises(UserError, match="^refused$"), removed_if_refused(workdir), run_lock(workdir):
        start(workdir)
        write(workdir)
        raise UserError("refused")


def test_a_refused_start_leaves_nothing(tmp_path):
    refuse(tmp_path / "new" / "run", lambda workdir: (workdir / "checkpoints").mkdir())
    assert not any(tmp_path.iterdir())


def test_a_folder_that_was_there_or_is_of_use_stays(tmp_path):
    (tmp_path / "older").mkdir()
    refuse(tmp_path / "older")
    refuse(tmp_path / "metrics", lambda workdir: append_json_line(workdir / "metrics.jsonl", {"step": 1}))
    refuse(tmp_path / "list", lambda workdir: (workdir / "bad_files.txt").write_text("a.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"older", "metrics", "list"}


def test_the_folder_of_another_process_stays(tmp_path):
    workdir = tmp_path / "run"
    with ExitStack() as other:
        with pytest.raises(UserError, match="in use"), removed_if_refused(workdir):
            other.enter_context(run_lock(workdir))  # was faster
            with run_lock(workdir):
                pass
        assert workdir.exists()


def test_an_unused_work_directory_takes_another_config(tmp_path):
    start(tmp_path, batch_size=16)
    (tmp_path / "baselines.json").write_text("[]")
    assert not in_use(tmp_path)
    start(tmp_path, batch_size=32)
    assert json.loads((tmp_path / "config.json").read_text())["schedule"]["batch_size"] == 32
    assert not (tmp_path / "baselines.json").exists()
    append_json_line(tmp_path / "metrics.jsonl", {"step": 1})
    with pytest.raises(UserError, match="schedule.batch_size was 32, is 16"):
        start(tmp_path, batch_size=16)


def test_a_run_of_a_number_resumes_with_auto_and_keeps_the_number(tmp_path):
    start(tmp_path, accumulation=2)
    append_json_line(tmp_path / "metrics.jsonl", {"step": 1})
    start(tmp_path)
    assert json.loads((tmp_path / FILE).read_text()) == {"0": {"accumulation": 2, "machine": None}}
    assert json.loads((tmp_path / "config.json").read_text())["schedule"]["accumulation"] == "auto"
