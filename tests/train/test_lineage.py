"""Lineage of runs: written when training starts, and read back."""

import json

import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.train.lineage import FILE, Lineage, read_lineage, record_lineage, write_lineage
from fastmim_jax.train.runs import LoadedRun


def loaded(workdir, step=40):
    workdir.mkdir(exist_ok=True)
    return LoadedRun(workdir, workdir / "checkpoints" / str(step), pretrain_config(), step, 0, {})


def test_runs_line_up_over_several_starts(tmp_path):
    record_lineage(_made(tmp_path / "b"), loaded(tmp_path / "a"))
    record_lineage(_made(tmp_path / "c"), loaded(tmp_path / "b", step=60))
    found = read_lineage(tmp_path / "c", {"init": "elsewhere"})
    assert [run.step for run in found.runs] == [60, 40] and found.origin == {}
    assert found.runs[0].config["method"]["name"] == "fastmim"


def test_converted_weights_are_the_origin(tmp_path):
    before = loaded(tmp_path / "a")
    told = {"source": "x.pth", "format": "mae_vit", "told": [["a", "b"]]}
    (tmp_path / "a" / "conversion.json").write_text(json.dumps(told))
    record_lineage(_made(tmp_path / "b"), before)
    assert read_lineage(tmp_path / "b") == ([], {"source": "x.pth", "format": "mae_vit"})


def test_a_start_from_random_parameters_removes_what_an_unused_start_left(tmp_path):
    record_lineage(tmp_path, loaded(tmp_path / "a"))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    record_lineage(tmp_path, None)  # resumed
    assert (tmp_path / FILE).exists()
    (tmp_path / "checkpoints" / "5").rmdir()
    record_lineage(tmp_path, None)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"runs": 1, "origin": {}}', '{"runs": [], "origin": {"a": 1}}']
)
def test_a_damaged_file_is_a_lost_origin(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert "cannot be read" in read_lineage(tmp_path).origin["problem"]


def test_damaged_runs_are_runs_of_unknown_config(tmp_path):
    write_lineage(tmp_path, Lineage([], {}))
    (tmp_path / FILE).write_text('{"runs": [3, {"config": {"method": 1}, "step": "x"}], "origin": {}}')
    assert read_lineage(tmp_path).runs == [({}, None), ({}, None)]


def _made(folder):
    folder.mkdir()
    return folder
