"""Tables of paths: every path comes back, also from a pickle; classes are numbered."""

import pickle

import numpy as np
import pytest

from fastmim_jax.data.sources.paths import PathTable, compact, number_classes, numeric_order


def test_paths_come_back_in_their_order():
    paths = [b"b/1.png", b"b/2.png", b"x.png", b"b/c/3.png", b"b/4.png", b"/abs/\xff.png", b"b/1.png"]
    table = PathTable(paths)
    assert [PathTable([path])[0] for path in paths] == paths
    for copy in (table, pickle.loads(pickle.dumps(table)), pickle.loads(pickle.dumps(table))):
        assert len(copy) == len(paths) and [copy[i] for i in range(len(paths))] == paths
        assert copy.folders == (b"b", b"", b"b/c", b"/abs")
        assert copy.folder_numbers().tolist() == [0, 0, 1, 2, 0, 3, 0]
        assert [copy.folder_number(i) for i in range(len(paths))] == copy.folder_numbers().tolist()
    assert len(PathTable([])) == len(PathTable([]).folder_numbers()) == 0


def test_a_pickle_takes_a_few_bytes_per_path():
    paths = [b"n%08d/n%08d_%d.JPEG" % (i // 1000, i // 1000, i * 37 % 99991) for i in range(20_000)]
    table = PathTable(paths)
    assert len(pickle.dumps(table)) < 10 * len(paths)
    copy = pickle.loads(pickle.dumps(table))
    assert [copy[i] for i in range(0, 20_000, 97)] == paths[::97]


@pytest.mark.parametrize(
    "names",
    [
        [b"a.jpg", b"a.jpg.jpg", b"a.jpg"],
        [b"x.jpg", b"x.png", b"y"],
        [b"same", b"same"],
        [b"1.jpg", b"11.jpg", b"111.jpg"],
        [b".jpg", b"..jpg", b""],
        [b"a_1.tar.gz", b"a_2.tar.gz"],
    ],
)
def test_names_with_common_parts(names):
    table = PathTable([b"f/" + name for name in names])
    assert [table[i] for i in range(len(names))] == [b"f/" + name for name in names]


def test_compact():
    assert compact([0, 2**32 - 1]).dtype == np.uint32 and compact([2**32]).dtype == np.int64
    assert compact([]).dtype == np.uint32 and compact([7, 3]).tolist() == [7, 3]


def test_classes_are_numbered():
    classes, labels = number_classes(["b", None, "a", "b", "10"])
    assert classes == ("10", "a", "b") and labels.tolist() == [2, -1, 1, 2, 0]
    assert number_classes(["10", "9", None, "-1"], numeric_order)[0] == ("-1", "9", "10")
    assert numeric_order({"10", "9", "x"}) == ["10", "9", "x"]
