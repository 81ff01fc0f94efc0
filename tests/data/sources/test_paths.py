"""Tables of paths: every path comes back, also from a pickle; classes are numbered."""

import pickle

from fastmim_jax.data.sources.paths import PathTable, number_classes, numeric_order


def test_paths_come_back_in_their_order():
    paths = [b"b/1.png", b"b/2.png", b"x.png", b"b/c/3.png", b"b/4.png", b"/abs/\xff.png", b"b/1.png"]
    table = PathTable(paths)
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
    assert pickle.loads(pickle.dumps(table))[19_999] == paths[-1]


def test_classes_are_numbered():
    classes, labels = number_classes(["b", None, "a", "b", "10"])
    assert classes == ("10", "a", "b") and labels.tolist() == [2, -1, 1, 2, 0]
    assert number_classes(["10", "9", None, "-1"], numeric_order)[0] == ("-1", "9", "10")
    assert numeric_order({"10", "9", "x"}) == ["10", "9", "x"]
