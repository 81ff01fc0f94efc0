"""A run is resumed with the training data that it was begun with, wherever they are."""

import json
import shutil

import pytest

from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.train.training_data import check_training_data, describe_data


@pytest.fixture
def run(tmp_path):
    """A function (data folder, **options) -> content of data.json; a run with a checkpoint."""
    for name in ("cat", "dog"):
        for number in range(2):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{number}.png").touch()
    (tmp_path / "run/checkpoints/4").mkdir(parents=True)
    (tmp_path / "run/data.json").write_text(json.dumps(describe_data(open_source(tmp_path / "data"))))

    def check(folder="data", accept=False, **options):
        source = open_source(tmp_path / folder)
        return check_training_data(tmp_path / "run", source, accept=accept, log=lines.append, **options)

    lines = []
    return check


def test_moved_data_are_the_same(run, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "other")
    assert run("other")["changes"] == []
    assert open_source(f"{tmp_path}/other::{tmp_path}/other/cat")  # joined sources are described too
    assert describe_data(open_source(f"{tmp_path}/other::{tmp_path}/other/cat"))["records"] == 6


def test_other_data_are_refused_or_accepted_and_recorded(run, tmp_path):
    (tmp_path / "data/cat").rename(tmp_path / "data/zebra")
    with pytest.raises(UserError, match=r"classes were cat, dog, now dog, zebra.*--accept_changed_data"):
        run()
    assert run(accept=True)["changes"][0]["classes"] == ["cat", "dog"]
    (tmp_path / "data/zebra").rename(tmp_path / "data/cat")
    (tmp_path / "data/cat/0.png").rename(tmp_path / "data/cat/5.png")
    with pytest.raises(UserError, match="other names or another order"):
        run()
    (tmp_path / "data/cat/6.png").touch()
    with pytest.raises(UserError, match="4 records were there, now 5"):
        run()


def test_the_number_of_classes_of_a_head_does_not_change(run, tmp_path):
    (tmp_path / "data/owl").mkdir()
    (tmp_path / "data/owl/0.png").touch()
    with pytest.raises(UserError, match="classes were cat, dog, now cat, dog, owl. The head has an output"):
        run(accept=True, classes_fixed=True)


@pytest.mark.parametrize(("in_memory", "most"), [(True, 5000), (False, 1000)])
def test_a_start_reads_few_records_for_their_names(in_memory, most):
    class Records:
        classes, names_in_memory = (), in_memory
        read: list[int] = []

        def __len__(self):
            return 5000

        def name(self, index):
            self.read.append(index)
            return str(index)

        def label(self, index):
            return -1

    describe_data(Records())
    assert most // 2 < len(Records.read) <= most and len(set(Records.read)) == len(Records.read)


def test_runs_without_checkpoint_or_record(run, tmp_path):
    (tmp_path / "data/owl").mkdir()
    (tmp_path / "data/owl/0.png").touch()
    (tmp_path / "run/data.json").unlink()
    assert run()["records"] == 5
    (tmp_path / "run/classes.json").write_text('["cat", "dog"]')  # from before there was a data.json
    with pytest.raises(UserError, match="classes were cat, dog, now cat, dog, owl"):
        run()
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert run()["records"] == 5
