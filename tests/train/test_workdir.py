"""The work directory: when it is removed, taken over or refused."""

import json
from contextlib import ExitStack

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.io import append_json_line
from fastmim_jax.train.accumulation_file import FILE
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


def test_a_run_goes_on_for_longer_where_its_past_stays(tmp_path):
    def begin(folder, **schedule):
        start(folder, steps=0, warmup_epochs=1.0, **schedule)
        append_json_line(folder / "metrics.jsonl", {"step": 1})

    begin(tmp_path / "step", epochs=10.0, shape="step")
    longer = small.config(steps=0, epochs=20.0, shape="step", warmup_epochs=1.0)
    with pytest.raises(UserError, match=r"schedule.epochs was 10.0, is 20.0\): type --extend"):
        prepare_workdir(tmp_path / "step", longer)
    prepare_workdir(tmp_path / "step", longer, extend=True)
    assert json.loads((tmp_path / "step" / "config.json").read_text())["schedule"]["epochs"] == 20
    begin(tmp_path / "cosine", epochs=10.0)
    with pytest.raises(UserError, match=r"or --config.init=\S+/cosine and another --workdir to train on"):
        longer = small.config(steps=0, epochs=20.0, warmup_epochs=1.0)
        prepare_workdir(tmp_path / "cosine", longer, extend=True)
    with pytest.raises(UserError, match="resume with the old values"):
        longer = small.config(steps=0, epochs=20.0, shape="step", warmup_epochs=2.0)
        prepare_workdir(tmp_path / "step", longer, extend=True)
