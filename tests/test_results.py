"""Results of commands tell who wrote them: files of the user's are not replaced."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.draw.pages import is_own_png, save_png
from fastmim_jax.evaluate.classify import Predictions
from fastmim_jax.evaluate.features import _is_features, _write_npz, _write_parquet
from fastmim_jax.evaluate.predict import _is_predictions, predictions_csv
from fastmim_jax.evaluate.probe import _is_table
from fastmim_jax.io import write_json
from fastmim_jax.tools.bench import _is_bench

COLUMNS = (np.array(["a"]), np.array([0]), ("cat",), {"block 1": np.ones((1, 2), np.float32)})


def test_features(tmp_path):
    _write_npz(tmp_path / "x.npz", *COLUMNS)
    np.savez(tmp_path / "y.npz", name=1)
    (tmp_path / "z.npz").write_text("thesis")
    (tmp_path / "z.parquet").write_text("thesis")
    assert [_is_features(tmp_path / f"{name}.npz") for name in "xyz"] == [True, False, False]
    pytest.importorskip("pyarrow")
    _write_parquet(tmp_path / "x.parquet", *COLUMNS)
    assert _is_features(tmp_path / "x.parquet") and not _is_features(tmp_path / "z.parquet")


def test_predictions(tmp_path):
    fields = {field.name: np.zeros((0, 5), int) for field in dataclasses.fields(Predictions)}
    text = predictions_csv(Predictions(**fields), None, ())
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "y.csv").write_bytes(b"name,age\n\xff")
    assert _is_predictions(tmp_path / "x.csv") and not _is_predictions(tmp_path / "y.csv")


def test_pictures(tmp_path):
    save_png(Image.new("RGB", (3, 3)), tmp_path / "x.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "y.png")
    (tmp_path / "z.png").write_text("thesis")
    assert [is_own_png(tmp_path / f"{name}.png") for name in "xyz"] == [True, False, False]


def test_tables(tmp_path):
    write_json(tmp_path / "probe.json", {"checkpoint": "", "best_layer": "", "lines": []})
    write_json(tmp_path / "bench.json", [{"step": 1.0}])
    for name in ("mine", "list"):
        (tmp_path / f"{name}.json").write_text("thesis" if name == "mine" else "[1]")
    names = ("probe", "bench", "mine", "list")
    assert [_is_table(tmp_path / f"{name}.json") for name in names] == [True, False, False, False]
    assert [_is_bench(tmp_path / f"{name}.json") for name in names] == [False, True, False, False]
