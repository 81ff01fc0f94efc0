"""Text files of paths: comments, classes, missing and other files."""

import pickle

import pytest

from fastmim_jax.data.sources import labelled, list_file, open_source, split_names
from fastmim_jax.errors import UserError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_paths_are_relative_to_the_file_in_its_order(tmp_path):
    put(tmp_path, "images/b.png", "images/a.png", "c d.jpg", "other/e.png")
    lines = ["# comment", "", "images/b.png", "c d.jpg", f"{tmp_path}/other/e.png", "  ", "images/a.png"]
    path = tmp_path / "lists" / "train.txt"
    put(tmp_path, "lists/x")
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace("images", "../images").encode())
    with pytest.raises(
        UserError, match=r"'val' was asked for.*is a list of images.*data.eval_path=val.txt"
    ):
        open_source(path, "val")
    source = pickle.loads(pickle.dumps(open_source(path)))
    assert list_file.matches(str(path)) and split_names(path) == ()
    assert [source.label(i) for i in range(len(source))] == [-1] * 3
    assert source.notices == (f"{path}: 1 of 4 paths are no files: line 4 (c d.jpg)",)
    assert source[0] == b"images/b.png" and source.name(1) == f"{tmp_path}/other/e.png"
    with pytest.raises(
        UserError, match="train.txt has no labels; expected a tab and the name of the class"
    ):
        labelled(source)


def test_classes_after_a_tab(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png", "v.mp4")
    path = tmp_path / "a.txt"
    path.write_text("1.png\tzebra\n2.png\tred panda\n3.png\tzebra\nv.mp4\tzebra\n")
    source = open_source(path)
    assert source.classes == ("red panda", "zebra") and [source.label(i) for i in range(3)] == [1, 0, 1]
    assert labelled(source) is source and source.notices == (f"{path}: 1 other file ignored (1 .mp4)",)
    path.write_text("1.png\tzebra\n2.png\n")
    with pytest.raises(
        UserError, match="1 of 2 records of .*a.txt have no label, such as .*2.png; expected a tab"
    ):
        labelled(open_source(path))


def test_missing_files_are_told_by_line(tmp_path):
    put(tmp_path, "1.png")
    path = tmp_path / "a.txt"
    path.write_text("1.png\n" + "".join(f"gone{i}.png\n" for i in range(7)))
    (notice,) = open_source(path).notices
    assert notice.startswith(f"{path}: 7 of 8 paths are no files: line 2 (gone0.png), line 3 (gone1.png)")
    assert notice.endswith("line 6 (gone4.png), ...")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.txt holds no paths; expected one path of an image per line, relative to"),
        ("# only\n\n", "a.txt holds no paths"),
        ("x.png\ny.png\n", "none of its 2 paths is a file, such as .x.png. in line 1; expected one path"),
        ("a.txt\n", "a.txt names no images, but 1 .txt files"),
    ],
)
def test_lists_without_an_image(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(path)
