"""Legend files: names of classes with colours, values or their order."""

import numpy as np
import pytest

from fastmim_jax.data.masks.coding import ColorCoding, SegmentCoding, ValueCoding, pack_colors
from fastmim_jax.data.masks.legend import find_legend, read_legend
from fastmim_jax.data.masks.problems import MaskError
from fastmim_jax.errors import UserError


def legend(tmp_path, text, name="legend.txt"):
    (tmp_path / name).write_text(text)
    return read_legend(str(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        "road 128 64 128\nnight sky, 0, 0, 255\n",
        "# R G B name\n128 64 128\troad\n\n0 0 255 night sky",
        "road: 128 64 128\nnight sky: 0 0 255",
        '{"road": [128, 64, 128], "night sky": [0, 0, 255]}',
    ],
)
def test_colours(tmp_path, text):
    found = legend(tmp_path, text)
    assert found.names == ("road", "night sky") and isinstance(found.coding, ColorCoding)
    values = np.array([[[0, 0, 255], [128, 64, 128]]], np.uint8)
    np.testing.assert_array_equal(found.coding(values, "a.png"), [[1, 0]])
    with pytest.raises(
        MaskError, match=r"a.png: a mask with colours that the legend lacks \(137 64 128, 9 0 255\)"
    ):
        found.coding(values + np.array([9, 0, 0], np.uint8), "a.png")


@pytest.mark.parametrize(
    "text", ["road 7\nsky 9\nvoid 3", '{"road": 7, "sky": 9, "Ignore": 3}', "7 road\n9: sky\n3 void"]
)
def test_values(tmp_path, text):
    found = legend(tmp_path, text)
    assert found.names == ("road", "sky") and isinstance(found.coding, ValueCoding)
    np.testing.assert_array_equal(found.coding(np.array([[9, 7, 3, 255]]), "a.png"), [[1, 0, -1, -1]])
    with pytest.raises(MaskError, match=r"\(8; expected at most 9\)"):
        found.coding(np.array([[8]]), "a.png")


@pytest.mark.parametrize("text", ["void\nroad\nnight sky", '["void", "road", "night sky"]'])
def test_names_alone(tmp_path, text):
    found = legend(tmp_path, text)
    assert found.names == ("road", "night sky")
    np.testing.assert_array_equal(found.coding(np.array([[0, 1, 2]]), "a.png"), [[-1, 0, 1]])


def test_two_colours_of_one_class(tmp_path):
    found = legend(tmp_path, "road 1 1 1\nsky 2 2 2\nroad 3 3 3")
    assert found.names == ("road", "sky")
    np.testing.assert_array_equal(found.coding(np.array([[3, 2, 1]], np.uint8), "a.png"), [[0, 1, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("road 1 2 3\nsky 4", "mixes"),
        ("road 1\nsky 1", "gives 1 to 'road' and 'sky'"),
        ("road 1 2 3\nsky 1 2 3", "gives 1 2 3 to"),
        ("road 1 2 300", "numbers"),
        ("12 13", "line 1"),
        ("void", "no class but"),
        ("road\nroad", "twice"),
        ('{"road": "red"}', "has the entry 'road'"),
        ("{", "is no JSON"),
    ],
)
def test_no_legend(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        legend(tmp_path, text)


def test_files(tmp_path):
    assert find_legend(str(tmp_path)) == ""
    legend(tmp_path, "road", "classes.txt")
    assert find_legend(str(tmp_path)).endswith("classes.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_legend(str(tmp_path / "none.txt"))


def test_segments():
    coding = SegmentCoding({"a.png": (np.array([5, 300]), np.array([2, 0]))})
    values = np.array([[[44, 1, 0], [5, 0, 0], [0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(pack_colors(values), [[300, 5, 0]])
    np.testing.assert_array_equal(coding(values, "/x/a.png"), [[0, 2, -1]])
    with pytest.raises(MaskError, match=r"segments that the JSON file lacks \(id 6\)"):
        coding(np.array([[6]]), "/x/a.png")
