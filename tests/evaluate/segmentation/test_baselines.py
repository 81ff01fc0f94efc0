"""The mIoU to beat: measured once, of the majority class and of colours alone."""

import json

from fastmim_jax.data.masks import open_masks
from fastmim_jax.evaluate.segmentation.baselines import COLOUR, MAJORITY, baseline_scores, measure_baselines
from helpers import small
from helpers.mask_files import write_folder
from helpers.stripes import write_stripes


def test_colours_tell_drawn_classes_and_not_stripes(tmp_path):
    write_folder(tmp_path / "drawn")
    drawn = open_masks(tmp_path / "drawn")
    found = baseline_scores(drawn, drawn, 10)
    assert found[COLOUR] == 1.0 and 0.05 < found[MAJORITY] < 1 / 3
    stripes = write_stripes(tmp_path / "stripes")
    train, val = (open_masks(stripes, split=split) for split in ("train", "val"))
    found = baseline_scores(train, val, 10)
    assert 0.2 < found[MAJORITY] < 1 / 3 and found[COLOUR] < 0.5


def test_they_are_measured_once(tmp_path, monkeypatch):
    write_folder(tmp_path / "drawn")
    data, lines = open_masks(tmp_path / "drawn"), []
    config = small.segmenting(tmp_path / "drawn")
    notes = measure_baselines(config, data, data, None, tmp_path, lines.append)
    assert [note.label for note in notes] == ["to beat", "to beat"] and "mIoU 100.00%" in notes[1].text
    assert "measuring what to beat" in lines[0]
    assert set(json.loads((tmp_path / "baselines.json").read_text())[0]["evaluation"]) == {MAJORITY, COLOUR}
    monkeypatch.setattr("fastmim_jax.evaluate.segmentation.baselines.baseline_scores", None)
    assert measure_baselines(config, data, data, None, tmp_path, lines.append) == notes


def test_none_are_measured_without_images(tmp_path):
    write_folder(tmp_path / "drawn")
    data, config = open_masks(tmp_path / "drawn"), small.segmenting(tmp_path / "drawn")
    config.run.baseline_images = 0
    assert measure_baselines(config, data, data, None, tmp_path, print) == []
