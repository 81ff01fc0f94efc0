"""Patterns and folders of files, and the splits in their names."""

import pytest

from fastmim_jax.data.sources import shards
from fastmim_jax.errors import UserError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a", ["a"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("a{8..10}", ["a8", "a9", "a10"]),
        ("{train,val}-{0..1}", ["train-0", "train-1", "val-0", "val-1"]),
    ],
)
def test_braces(pattern, words):
    assert shards.expand_braces(pattern) == words


def test_patterns(tmp_path):
    put(tmp_path, "s-00.tar", "s-01.tar", "s-02.tar")
    files = tuple(f"{tmp_path}/s-0{i}.tar" for i in range(3))
    for pattern in ("s-{00..02}.tar", "s-*.tar", "s-0{0,1,2}.tar"):
        path = f"{tmp_path}/{pattern}"
        assert shards.has_shards(path, "tar") and not shards.has_shards(path, "parquet")
        assert shards.split_names(path, "tar") == () and shards.choose_shards(path, "tar", "train") == files
    with pytest.raises(
        UserError, match="2 of the 4 files of the pattern .* do not exist, such as .*s-03.tar"
    ):
        shards.find_shards(f"{tmp_path}/s-{{01..04}}.tar", "tar")
    for pattern in ("t-{0..9}.tar", "t-*.tar"):
        with pytest.raises(UserError, match=r"No file matches the pattern .*in quotes"):
            shards.find_shards(f"{tmp_path}/{pattern}", "tar")
    with pytest.raises(UserError, match="is not divided into splits; expected files such as val-00000.tar"):
        shards.choose_shards(f"{tmp_path}/s-*.tar", "tar", "val")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train-00000-of-00002.parquet", "test-0.parquet", "README.md"], {"train": 1, "test": 1}),
        (["data/imagenet-validation-0.parquet", "README.md"], {"validation": 1}),
        (["0000.parquet", "0001.parquet"], {"": 2}),
        (["val/0.parquet", "train/0.parquet", "train/1.parquet"], {"train": 2, "val": 1}),
        (["cat/1.png", "meta.parquet"], {}),
        (["1.png", "meta.parquet"], {}),
        (["train/cat/1.png", "val/0.parquet"], {}),
        (["train/0.parquet", "val/1.png"], {}),
        (["notes.txt"], {}),
    ],
)
def test_folders(tmp_path, names, found):
    put(tmp_path, *names)
    assert shards.has_shards(str(tmp_path), "parquet") == bool(found)
    files = shards.find_shards(str(tmp_path), "parquet")
    assert {split: len(files) for split, files in files.items()} == found
    if "train" in found:
        assert len(shards.choose_shards(str(tmp_path), "parquet", "train")) == found["train"]


def test_a_split_has_other_usual_names(tmp_path):
    put(tmp_path, "train-0.tar", "validation-0.tar")
    for name in ("val", "valid", "validation", "dev"):
        assert shards.choose_shards(str(tmp_path), "tar", name) == (f"{tmp_path}/validation-0.tar",)
    with pytest.raises(UserError, match="'test' was asked for"):
        shards.choose_shards(str(tmp_path), "tar", "test")


def test_files_that_tell_no_split_beside_others(tmp_path):
    put(tmp_path, "train-0.tar", "more.tar")
    with pytest.raises(
        UserError, match="holds files of the splits train, and more.tar, whose name tells no"
    ):
        shards.has_shards(str(tmp_path), "tar")
