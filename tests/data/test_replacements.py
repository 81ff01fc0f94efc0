"""Records in place of others come from the same class, and a class without a good image is told."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.replacements import candidates, describe_broken_classes
from fastmim_jax.data.sources import open_source
from fastmim_jax.data.sources.joined import JoinedSource
from fastmim_jax.data.undecodable import UndecodableRecords

PER_CLASS = 6
COLOURS = {"a": 50, "b": 100, "c": 150}


@pytest.fixture
def folder(tmp_path):
    """Three classes of a colour each; a lacks its last image, b all of its images."""
    for name, value in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(PER_CLASS):
            path = tmp_path / name / f"{number}.png"
            if name == "b" or (name, number) == ("a", PER_CLASS - 1):
                path.write_text("<html>")
            else:
                Image.new("RGB", (8, 8), (value,) * 3).save(path)
    return tmp_path


def as_list(folder):
    """The same images, classes in turn."""
    path = folder / "list.txt"
    path.write_text("".join(f"{x}/{i}.png\t{x}\n" for i in range(PER_CLASS) for x in COLOURS))
    return path


@pytest.mark.parametrize("kind", ["folder", "list", "joined"])
def test_of_the_same_class_first(folder, kind):
    path = {"folder": folder, "list": as_list(folder), "joined": f"{folder}::{as_list(folder)}"}[kind]
    source = open_source(path)
    assert isinstance(source, JoinedSource) == (kind == "joined")
    for index in range(len(source)):
        order = list(candidates(source, index))
        labels = [source.label(i) for i in order]
        size = labels.count(labels[0])
        assert sorted(order) == list(range(len(source))) and order[0] == index
        assert set(labels[:size]) == {source.label(index)}
        following = [i % len(source) for i in range(index + 1, index + len(source))]
        assert order[1] == next(i for i in following if source.label(i) == labels[0])


def test_without_labels_and_with_a_limit(folder):
    source = open_source(folder / "c")
    assert list(candidates(source, 4)) == [4, 5, 0, 1, 2, 3] and list(candidates(source, 4, 3)) == [4, 5, 0]
    source = open_source(folder)
    limited = list(candidates(source, 1, 6))
    assert limited[:4] == [1, 2, 3, 4] and len(limited) == len(set(limited)) == 6


@pytest.mark.parametrize("as_a_list", [False, True])
def test_image_and_label_stay_together(folder, as_a_list):
    source = open_source(as_list(folder) if as_a_list else folder)
    records = UndecodableRecords(source, max_share=0.5)
    lines = []
    with make_loader(source, image_size=(8, 8), channels=3, batch_size=6, seed=0) as loader:
        for _ in range(len(source) // 6):
            batch = next(loader)
            lines += records.update(batch)
            for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
                assert (image == COLOURS[source.classes[label]]).all()
                own = source.classes[source.label(index)]
                assert source.classes[label] == own or own == "b"
    assert [line for line in lines if "replaced" not in line] == [
        f"no image of 1 class can be decoded: b ({PER_CLASS})"
    ]
    assert records.count == PER_CLASS + 1 and records.summary().endswith("1 class can be decoded: b (6)")


def test_classes_that_one_pass_finds_broken(folder):
    source = open_source(folder)
    labels = np.array([source.label(i) for i in range(len(source))])
    bad = np.flatnonzero(labels == 1)
    assert describe_broken_classes(source, np.flatnonzero(labels != 1), bad) == [
        "no image of 1 class can be decoded: b (6)"
    ]
    assert describe_broken_classes(source, np.arange(7), bad[1:]) == []
    assert describe_broken_classes(source, np.arange(18), []) == []
