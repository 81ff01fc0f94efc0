"""`fastmim compare`: tables and curves of several runs."""

import pytest
from PIL import Image

from fastmim_jax.config import pretrain_config
from fastmim_jax.draw.compared import Curve, draw_compared
from fastmim_jax.draw.style import SERIES
from fastmim_jax.errors import UserError
from fastmim_jax.io import write_json, write_json_lines
from fastmim_jax.saved_config import flatten, unflatten
from fastmim_jax.tools.compare import compare


def run_of(folder, key="loss", start=1.0, **settings):
    """Write a work directory with a log of 40 steps, and a config where settings are given."""
    folder.mkdir()
    lines = [{"step": step, "loss": start / step, "images_per_second": 10.0} for step in range(1, 41)]
    if key == "top1":
        lines.append({"step": 40, "top1": 0.5})
    write_json_lines(folder / "metrics.jsonl", lines)
    if settings:
        config = pretrain_config()
        config.update_from_flattened_dict(settings)
        write_json(folder / "config.json", unflatten(flatten(config)))
    return str(folder)


def test_table_and_picture(tmp_path):
    mine, other = run_of(tmp_path / "mine"), run_of(tmp_path / "other", start=2.0)
    lines = []
    picture = compare(mine, [other], None, lines.append)
    assert lines[0].split() == [mine, "step", "40", "loss", "0.0253", "median", "images/s", "10"]
    assert "0.0506" in lines[1] and "may not compare" in lines[2]
    assert Image.open(picture).size == (1152, 576)


def test_losses_of_other_targets_are_told_apart(tmp_path):
    mine = run_of(tmp_path / "mine", **{"method.target": "hog"})
    other = run_of(tmp_path / "other", **{"method.target": "pixel"})
    lines = []
    compare(mine, [other], tmp_path / "x.png", lines.append)
    assert any("do not compare: method.target hog and pixel" in line for line in lines)


def test_what_does_not_compare_is_refused(tmp_path):
    mine, tuned = run_of(tmp_path / "mine"), run_of(tmp_path / "tuned", key="top1")
    with pytest.raises(UserError, match="mine pre-trains, .*tuned fine-tunes"):
        compare(mine, [tuned], None)
    with pytest.raises(UserError, match="type --with=OTHER_RUN"):
        compare(mine, [], None)
    with pytest.raises(UserError, match="no metrics.jsonl: type the work directory"):
        compare(mine, [str(tmp_path)], None)


def test_more_runs_than_colours(tmp_path):
    curves = {str(number): Curve([1, 2], [1.0, 2.0]) for number in range(len(SERIES) + 1)}
    with pytest.raises(UserError, match="name fewer"):
        draw_compared(tmp_path / "x.png", curves, title="", y="")
