"""The manifest and the index of a prepared data set, and arrays with a range."""

import json

import numpy as np
import pytest

from fastmim_jax.data.decode import decode
from fastmim_jax.data.records.index import RecordIndex, write_index
from fastmim_jax.data.records.manifest import is_prepared, load_manifest
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.errors import UserError
from helpers.prepared import write_records


def test_a_manifest_reads_as_it_was_written(tmp_path):
    write_records(tmp_path / "x", [np.zeros((4, 6, 2), np.uint8)] * 3, [(4, 6, 2)] * 3, "raw")
    text = (tmp_path / "x" / "manifest.json").read_text()
    assert json.loads(json.dumps(load_manifest(str(tmp_path / "x")).to_json())) == json.loads(text)


def test_an_index_keeps_labels_and_names(tmp_path):
    names = ["a/1.png", "", "b/é.jpg", b"\xff".decode("utf-8", "surrogateescape")]
    write_index(str(tmp_path / "train"), [0, -1, 1, 1], names)
    index = RecordIndex(str(tmp_path / "train"))
    assert index.labels.tolist() == [0, -1, 1, 1] and [index.name(i) for i in range(4)] == names


def test_values_outside_the_range_are_clipped():
    image = RawImage(np.array([[[-5.0], [10.0], [15.0], [99.0]]], np.float32), (10.0, 20.0))
    assert decode(image, 1).ravel().tolist() == [0, 0, 128, 255] and image.shape == (1, 4, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\x00", b"[" * 100_000])
def test_a_damaged_manifest_is_named(content, tmp_path):
    path = write_records(tmp_path / "x", [b"a"], [(2, 2, 3)], "jpeg", shards=1)
    (path / "manifest.json").write_bytes(content)
    assert is_prepared(str(path))
    with pytest.raises(
        UserError, match="manifest.json cannot be read .*prepare them again elsewhere"
    ) as caught:
        load_manifest(str(path))
    assert "\n" not in str(caught.value)
    (tmp_path / "manifest.json").write_bytes(content)
    assert not is_prepared(str(tmp_path))  # the user's: no records there


@pytest.mark.parametrize(
    "key", ["splits", "value_range", "layout", "dtype", "channels", "settings", "version"]
)
def test_a_manifest_of_other_values_is_named(key, tmp_path):
    path = write_records(tmp_path / "x", [b"a"], [(2, 2, 3)], "jpeg", shards=1)
    whole = json.loads((path / "manifest.json").read_text())
    facts = whole["splits"]["train"]
    for value in (None, "x", [1], {}, {"train": 1}, {"train": {}}, {"train": facts | {"records": "x"}}):
        if isinstance(value, str) and key in ("layout", "dtype") or (key == "settings" and value == {}):
            continue
        (path / "manifest.json").write_text(json.dumps(whole | {key: value}))
        if key == "settings" and isinstance(value, dict):
            continue
        with pytest.raises(UserError) as caught:
            load_manifest(str(path))
        assert "\n" not in str(caught.value) and ("manifest.json" in str(caught.value) or key == "version")
