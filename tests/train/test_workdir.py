"""The work directory: when it is removed, taken over or refused."""

import json

import pytest

from fastmim_jax.errors import OutOfMemoryError, UserError
from fastmim_jax.io import append_json_line
from fastmim_jax.train.accumulation import FILE
from fastmim_jax.train.workdir import in_use, prepare_workdir, removed_if_unused
from helpers import small


def start(workdir, **schedule):
    return prepare_workdir(workdir, small.config(**schedule))


def test_a_start_that_ran_out_of_memory_leaves_nothing(tmp_path):
    workdir = tmp_path / "new"
    with pytest.raises(OutOfMemoryError), removed_if_unused(workdir):
        start(workdir)
        raise OutOfMemoryError
    assert not workdir.exists()


def test_what_holds_metrics_or_was_there_before_stays(tmp_path):
    for name, before in (("metrics", False), ("older", True)):
        workdir = tmp_path / name
        if before:
            workdir.mkdir()
        with pytest.raises(OutOfMemoryError), removed_if_unused(workdir):
            start(workdir)
            if not before:
                append_json_line(workdir / "metrics.jsonl", {"step": 1})
            raise OutOfMemoryError
        assert workdir.exists()
    with pytest.raises(UserError), removed_if_unused(tmp_path / "refused"):
        start(tmp_path / "refused")
        raise UserError
    assert (tmp_path / "refused").exists()


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
