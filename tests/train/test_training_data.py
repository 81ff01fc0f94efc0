"""A run is resumed with the training data that it was begun with, wherever they are."""

import json
import shutil

import numpy as np
import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.train import training_data
from fastmim_jax.train.training_data import (
    check_start,
    check_training_data,
    describe_data,
    fingerprint,
)


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
        return check_training_data(
            tmp_path / "run", describe_data(source), accept=accept, log=lines.append, **options
        )

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


def test_data_of_which_a_share_is_held_out_do_not_change(run, tmp_path):
    assert run(shared=True)["changes"] == []
    (tmp_path / "data/cat/5.png").touch()
    with pytest.raises(UserError, match="some of them may have been trained on: restore the data, or type"):
        run(accept=True, shared=True)


def test_other_content_under_the_same_names_is_refused(run, tmp_path):
    (tmp_path / "data/cat/0.png").write_bytes(b"other")
    with pytest.raises(UserError, match="1 of 4 records that were compared have other content.*--accept"):
        run()
    assert len(run(accept=True)["samples"]) == 4
    content = json.loads((tmp_path / "run/data.json").read_text())
    del content["samples"]  # of a run from before there were any
    (tmp_path / "run/data.json").write_text(json.dumps(content))
    assert run()["changes"] == []


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


def test_evaluation_data_are_compared(tmp_path, run):
    data, other = open_source(tmp_path / "data"), open_source(tmp_path / "data/cat")
    path = tmp_path / "run/data.json"

    def check(before, now):
        path.write_text(json.dumps(describe_data(data, before)))
        return check_training_data(tmp_path / "run", describe_data(data, now), accept=False, log=print)

    assert check(other, other)["evaluation"]["records"] == 2
    for before, now, message in [
        (
            data,
            other,
            "in the evaluation data 4 records were there, now 2 and classes were cat, dog, now none",
        ),
        (None, other, "the evaluation data were none, now 2 records"),
        (other, None, "the evaluation data were 2 records, now none"),
    ]:
        with pytest.raises(UserError, match=f"{message}.*--accept_changed_data"):
            check(before, now)


def test_prepared_images_are_compared_by_content(tmp_path, run):
    data = {**describe_data(open_source(tmp_path / "data")), "content": "a" * 64}
    (tmp_path / "run/data.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="other images were prepared .hash aaaaaaaaaaaa, now none"):
        run()


def test_parameters_to_start_from_may_move(tmp_path, run, monkeypatch):
    class Loaded:
        def __init__(self, value):
            self.variables = {"params": {"a": np.full((3, 2), value, np.float32)}}

    runs = {"/old": Loaded(1), "/moved": Loaded(1), "/other": Loaded(2)}
    monkeypatch.setattr(training_data, "load_run", runs.__getitem__)
    workdir = tmp_path / "run"
    start = check_start(tmp_path / "new", "/old", runs["/old"])
    assert start == {"init": fingerprint(runs["/moved"].variables)}
    assert check_start(tmp_path, "", None) == {}
    config = pretrain_config()
    config.init = "/old"
    (workdir / "config.json").write_text(config.to_json())
    (workdir / "data.json").write_text(json.dumps(start))
    del runs["/old"]  # it is not needed to resume
    assert check_start(workdir, "/old", None) == check_start(workdir, "/moved", None) == start
    for init in ("/other", ""):
        with pytest.raises(UserError, match=f"init was /old, is {init or 'not set'}.*--config.init=/old"):
            check_start(workdir, init, None)


def test_pictures_of_runs_are_no_data(tmp_path, run):
    """The work directory lies in the data, or the data in the work directory."""
    before = describe_data(open_source(tmp_path / "data"))
    for workdir in (tmp_path / "data/run", tmp_path / "data/cat/run", tmp_path):
        (workdir / "checkpoints/1").mkdir(parents=True)
        (workdir / "pictures").mkdir()
        (workdir / "pictures/curve.png").touch()
        (workdir / "config.json").touch()
    converted = tmp_path / "data/dog/timm"
    converted.mkdir()
    for name in ("config.json", "model.safetensors", "curve.png"):
        (converted / name).touch()
    source = open_source(tmp_path / "data")
    assert describe_data(source) == before and "work directory or pictures of a run: 3" in source.notices[0]
