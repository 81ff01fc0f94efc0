"""Sources with usable labels, and the split for evaluation; no image is decoded for either."""

import pytest

from fastmim_jax.data.sources import FolderSource, evaluation_split, labelled, open_source, split_names
from fastmim_jax.errors import UserError


def put(path):
    """An empty file: nothing is decoded here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def refused(source):
    """The message with which `labelled` refuses a source."""
    with pytest.raises(UserError) as caught:
        labelled(source)
    return str(caught.value)


def test_labelled_folders_are_accepted(tmp_path):
    for name in ("cat/1.png", "dog/x/2.png"):
        put(tmp_path / name)
    (tmp_path / "labels.txt").write_text("no image")
    source = FolderSource(tmp_path)
    assert labelled(source) is source


def test_folders_without_labels(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png")
    expected = f"expected one folder per class: {tmp_path}/CLASS/image.jpg"
    message = refused(FolderSource(tmp_path))
    assert message == f"{tmp_path} holds 3 images but no class folders; {expected}."
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "dog" / "1.png")
    message = refused(FolderSource(tmp_path))
    assert message.startswith(
        f"{tmp_path} holds images outside of its class folders (3 of 5, such as {tmp_path}/0.png)"
    )
    assert "move them there or remove them" in message
    assert refused(FolderSource(tmp_path / "cat")).startswith(f"{tmp_path}/cat holds 1 image but no class")
    assert "one.png is a single image" in refused(open_source(put(tmp_path / "one.png")))


def test_one_class_is_not_enough(tmp_path):
    put(tmp_path / "images" / "cat" / "1.png")
    put(tmp_path / "images" / "dog" / "1.png")
    message = refused(FolderSource(tmp_path))
    assert message.startswith(
        f"{tmp_path} holds a single class folder, images; expected one folder per class"
    )
    assert labelled(FolderSource(tmp_path / "images")).classes == ("cat", "dog")


def test_splits_of_folders(tmp_path):
    offered = []
    for name in ("test", "train", "validation", "val"):
        put(tmp_path / name / "cat" / "1.png")
        (tmp_path / ".cache").mkdir(exist_ok=True)
        offered.append((split_names(tmp_path), evaluation_split(tmp_path)))
    assert offered == [
        (("test",), "test"),
        (("train", "test"), "test"),
        (("train", "validation", "test"), "validation"),
        (("train", "val", "validation", "test"), "val"),
    ]
    for name in split_names(tmp_path):
        open_source(tmp_path, name)
    put(tmp_path / "plane" / "3.png")
    assert split_names(tmp_path) == offered[-1][0]  # images beside the splits are ignored and told
    assert split_names(tmp_path / "plane") == split_names(tmp_path / "plane" / "3.png") == ()
    with pytest.raises(UserError, match="does not exist"):
        split_names(tmp_path / "gone")


def test_a_train_split_alone_gives_no_evaluation_split(tmp_path):
    put(tmp_path / "train" / "cat" / "1.png")
    assert split_names(tmp_path) == ("train",) and evaluation_split(tmp_path) is None


def test_labels_and_splits_of_the_sample():
    assert split_names("sample") == ("train", "test") and evaluation_split("sample") == "test"
    for split in split_names("sample"):
        source = open_source("sample", split)
        assert labelled(source) is source
