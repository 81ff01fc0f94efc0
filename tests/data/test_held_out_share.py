"""A share of every class that is held out of training; no image is decoded."""

import pickle
import shutil

import numpy as np
import pytest

from fastmim_jax.data.held_out_share import SubsetSource, split_share
from fastmim_jax.data.sources import labelled, open_source
from fastmim_jax.data.sources.folder import FolderSource
from fastmim_jax.data.sources.joined import JoinedSource
from fastmim_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Empty image files: 40 cats, 5 dogs, 2 eels and an owl."""
    for name, count in (("cat", 40), ("dog", 5), ("eel", 2), ("owl", 1)):
        (tmp_path / "a" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "a" / name / f"{number}.png").write_bytes(f"{name} {number}".encode())
    return tmp_path / "a"


def counts(source):
    return np.bincount([source.label(index) for index in range(len(source))], minlength=4).tolist()


def names(source, root=""):
    return [source.name(index).removeprefix(str(root)) for index in range(len(source))]


def test_every_class_lends_its_share_and_none_is_in_both(folder):
    source = FolderSource(folder)
    training, held_out = split_share(source, 0.1)
    assert (counts(training), counts(held_out)) == ([36, 4, 1, 1], [4, 1, 1, 0])
    assert sorted(names(training) + names(held_out)) == sorted(names(source))
    assert training.classes == held_out.classes == source.classes
    for part in (training, held_out):
        content = [f"{part.classes[part.label(i)]} ".encode() for i in range(len(part))]
        assert all(part[i].startswith(start) for i, start in enumerate(content))
        assert part.label_problem() is None and labelled(part) is part and part.rows(0) is None
        assert part.all_labels().tolist() == [part.label(i) for i in range(len(part))]
        assert names(pickle.loads(pickle.dumps(part))) == names(part)
    chosen, other, single = held_out.notes
    assert chosen.startswith("6 images of 3 classes, 10% of each and at least one, which are not")
    assert "--config.data.eval_path=DIR" in other and single.endswith("and not evaluated: owl")
    assert repr(held_out) == f"6 of the images of {source!r}"


def test_the_share_does_not_depend_on_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "b")
    here, there = (
        split_share(FolderSource(root), 0.2)[1] for root in (folder, tmp_path / "elsewhere" / "b")
    )
    assert names(here, folder) == names(there, tmp_path / "elsewhere" / "b")


def test_an_added_image_moves_at_most_itself(folder):
    before = set(names(split_share(FolderSource(folder), 0.1)[1]))
    (folder / "cat" / "new.png").touch()
    after = set(names(split_share(FolderSource(folder), 0.1)[1]))
    assert len(before - after) <= 1 and after - before <= {str(folder / "cat" / "new.png")}


def test_a_half_and_almost_all(folder):
    assert counts(split_share(FolderSource(folder), 0.99)[0]) == [1, 1, 1, 1]


def test_classes_of_one_image_are_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    with pytest.raises(UserError, match="no class of two images.* --config.data.eval_path=DIR"):
        split_share(FolderSource(tmp_path), 0.1)


def test_records_without_names_in_memory_are_chosen_by_number(folder):
    joined = JoinedSource([FolderSource(folder), open_source("sample", "test")])
    training, held_out = split_share(joined, 0.1)
    assert isinstance(held_out, SubsetSource) and len(training) + len(held_out) == len(joined)
    source = FolderSource(folder)
    source.names_in_memory = False
    source.all_labels = lambda: None
    assert counts(split_share(source, 0.1)[1]) == [4, 1, 1, 0]
