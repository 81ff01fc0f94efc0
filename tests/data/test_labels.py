"""Training and evaluation data with the same classes; no image is decoded."""

import pytest
from ml_collections import ConfigDict

from fastmim_jax.data.labels import open_evaluation, open_labelled, trained_on, with_classes
from fastmim_jax.data.sources.folder import FolderSource
from fastmim_jax.errors import UserError


def write(folder, *classes):
    """Two empty image files per class -> the folder."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (folder / name / f"{number}.png").touch()
    return folder


def data(path, eval_path="", split="train", eval_split="", eval_share=0.0):
    settings = dict(path=str(path), split=split, eval_path=str(eval_path), eval_split=eval_split)
    return ConfigDict({"data": {**settings, "eval_share": eval_share}})


def names(source):
    return {source.name(index) for index in range(len(source))}


def test_both_splits_of_a_folder_are_opened(tmp_path):
    write(tmp_path / "train", "cat", "dog")
    write(tmp_path / "test", "cat", "dog")
    train, evaluation = open_labelled(data(tmp_path))
    assert (train.path, evaluation.path) == (str(tmp_path / "train"), str(tmp_path / "test"))
    write(tmp_path / "val", "cat", "dog")
    assert open_labelled(data(tmp_path))[1].path == str(tmp_path / "val")
    assert open_labelled(data(tmp_path, eval_split="test"))[1].path == str(tmp_path / "test")


def test_a_folder_of_evaluation_data_needs_no_splits(tmp_path):
    train, other = write(tmp_path / "a", "cat", "dog"), write(tmp_path / "b", "cat", "dog")
    assert open_labelled(data(train, other))[1].path == str(other)


def test_training_data_alone_lend_a_share(tmp_path):
    config = data(write(tmp_path, "cat", "dog"), eval_share=0.1)
    train, evaluation = open_labelled(config)
    assert (len(train), len(evaluation)) == (2, 2) and not names(train) & names(evaluation)
    assert names(open_evaluation(config.data, train.classes)) == names(evaluation)
    assert trained_on(str(tmp_path), config.data) and not trained_on("sample", config.data)
    with pytest.raises(UserError, match="has no val or test split .* or --config.data.eval_share=0.1"):
        open_labelled(data(tmp_path))


def test_evaluation_data_without_labels_is_refused(tmp_path):
    train, other = write(tmp_path / "a", "cat", "dog"), write(tmp_path / "b", "images")
    with pytest.raises(UserError, match="not among the 2 of the model: images"):
        open_labelled(data(train, other))


def test_other_classes_are_refused_and_named(tmp_path):
    source = FolderSource(write(tmp_path, "cat", "dog", "eel"))
    assert with_classes(source, ["cat", "dog", "eel"]) is source
    with pytest.raises(UserError, match=r"not among the 2 of the model: dog, eel; expected"):
        with_classes(source, ("cat", "cow"))
    with pytest.raises(UserError, match="not among the 2 of the model: eel; expected"):
        open_evaluation(data(tmp_path, tmp_path).data, ("cat", "dog"))


@pytest.mark.parametrize("names", [("owl", "cat"), ("dog",)])
def test_evaluation_data_may_lack_classes(tmp_path, names):
    write(tmp_path / "train", "cat", "dog", "owl")
    write(tmp_path / "val", *names)
    (tmp_path / "val" / "empty").mkdir()
    train, source = open_labelled(data(tmp_path))
    assert source.classes == train.classes == ("cat", "dog", "owl") and source.label_problem() is None
    for index in range(len(source)):
        assert f"/{source.classes[source.label(index)]}/" in source.name(index)
    assert f"{len(source)} images" in repr(source) and repr(source).endswith("of 3")
    assert source[0] == b"" and "empty" in source.notices[0]
