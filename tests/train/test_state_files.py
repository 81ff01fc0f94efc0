"""Damaged state files of a run: each is named in one sentence, and rebuilt or refused; no other error."""

import json
import shutil

import jax
import numpy as np
import pytest

from fastmim_jax.data.sources import FolderSource
from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle, open_bundle, write_workdir
from fastmim_jax.export.card import starting_weights
from fastmim_jax.export.convert import Options, convert
from fastmim_jax.saved_config import find_mismatch, flatten, unflatten
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.metrics import Metrics, read_metrics
from fastmim_jax.train.position import check_position
from fastmim_jax.train.report import summarize
from fastmim_jax.train.run_start import make_run_start
from fastmim_jax.train.runs import load_run, read_classes
from fastmim_jax.train.state_files import repair_state_files
from fastmim_jax.train.training_data import describe_data
from fastmim_jax.train.workdir import prepare_workdir
from helpers import small
from helpers.sweeps import sweep

DAMAGE = {
    "empty": b"",
    "cut": b'{"a": [1, ',
    "list": b"[1, [2], null]",
    "object": b'{"a": {"b": {"c": 1}}}',
    "number": b"3",
    "text": b'"x"',
    "null": b"null",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
}
WRONG_TYPES = {
    "config.json": [
        {"method": 1},
        {"method": {"backbone": 3}},
        {"method": {}, "data": {"image_size": "x"}},
    ],
    "baselines.json": [[1], [{"training": 1}], [{"training": {"zero": "x"}}]],
    "accumulation.json": [{"0": 1}, {"0": {"accumulation": "x"}}],
    "values.json": [{"sentences": 1}, {"sentences": [1]}],
    "data.json": [{"records": "x"}, {"classes": [1]}, {"changes": 1}, {"evaluation": 1}, {"init": 1}],
    "metrics.jsonl": [{"loss": 1}, {"step": "x", "loss": 1}, {"step": 1, "loss": [1]}],
    "bad_files.txt": [],
    "lock": [{"host": 1}],
}
REBUILT = (
    "config.json",
    "baselines.json",
    "accumulation.json",
    "values.json",
    "metrics.jsonl",
    "bad_files.txt",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small.write_images(folder, 4)
    return FolderSource(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, source):
    """Work directory of a run with a checkpoint at step 0, without training."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = small.config()
    config.data.path = str(source.path)
    bundle = ModelBundle(config, {})
    bundle = bundle._replace(variables=jax.tree.map(lambda x: np.ones(x.shape, x.dtype), bundle.shapes()))
    write_workdir(bundle, workdir, {})
    (workdir / "conversion.json").unlink()
    position = workdir / "checkpoints" / "0" / "position" / "metadata"
    position.write_text(json.dumps({"records": 0, "stage": 0, "config": flatten(config)}))
    (workdir / "checkpoints" / "0" / "SHA256SUMS").unlink()
    write = {
        "baselines.json": [{"training": {"zero": 1.0}}],
        "accumulation.json": {"0": {"accumulation": 1, "machine": None}},
        "values.json": {"sentences": ["8 bits"], "names": ""},
        "data.json": describe_data(source),
    }
    for name, value in write.items():
        (workdir / name).write_text(json.dumps(value))
    (workdir / "metrics.jsonl").write_text('{"step": 0, "loss": 1.5}\n')
    return workdir, config


def resume(workdir, config, source, accept=False):
    """Call in order what a start reads; return the lines that it prints."""
    lines = []
    start = make_run_start(
        *(config, workdir, source, None, lambda config, workdir: (config, None)),
        log=lines.append,
        accept_changed_data=accept,
    )
    with start.written(workdir):
        metrics = Metrics(workdir, 0, 10)
        lines += [f"{workdir / 'metrics.jsonl'}: damaged lines removed"] * bool(
            read_metrics(workdir).dropped
        )
        metrics.close()
        UndecodableRecords(source, 0.5, workdir / "bad_files.txt", log=lines.append)
        summarize(workdir)
    return lines


@pytest.mark.slow
def test_a_whole_run_is_resumed_without_a_word(run, source, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    assert resume(workdir, run[1], source) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(WRONG_TYPES, ["config.json", "bad_files.txt", "data.json", "lock"]))
def test_every_damage_is_told_and_rebuilt_or_refused(name, run, source, tmp_path, capsys):
    contents = [*DAMAGE.values(), *(json.dumps(value).encode() for value in WRONG_TYPES[name])]
    for number, content in enumerate(contents):
        workdir = shutil.copytree(run[0], tmp_path / str(number))
        (workdir / name).write_bytes(content)
        capsys.readouterr()
        try:
            lines = resume(workdir, run[1], source)
        except UserError as error:
            assert name == "data.json", content[:20]
            assert "\n" not in str(error) and str(workdir / name) in str(error)
            assert "type --accept_changed_data to resume unchecked" in str(error)
            lines = resume(workdir, run[1], source, accept=True)
        lines = [
            line for line in (*lines, *capsys.readouterr().out.splitlines()) if str(workdir / name) in line
        ]
        harmless = name in ("lock", "data.json") or (name, content) in (
            ("metrics.jsonl", b""),
            ("bad_files.txt", b""),
        )
        assert lines or harmless or content == DAMAGE["object"], (name, content[:20])
        if name in REBUILT:
            assert resume(workdir, run[1], source) == []  # told once


@pytest.mark.slow
def test_a_config_is_restored_from_the_newest_checkpoint_and_compared(run, source, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (workdir / "config.json").unlink()
    other = small.config()
    other.schedule.batch_size = 64
    with pytest.raises(UserError, match="schedule.batch_size was"):
        resume(workdir, other, source)
    (workdir / "config.json").unlink()
    (line,) = resume(workdir, run[1], source)
    assert line.endswith(f"it is restored from {workdir / 'checkpoints' / '0'}")
    (workdir / "checkpoints" / "0" / "position" / "metadata").write_text('{"records": 0}')
    (workdir / "config.json").write_text("")
    with pytest.raises(UserError, match="it is empty.*no checkpoint holds a config: type another"):
        resume(workdir, run[1], source)
    assert (workdir / "config.json").exists()


@pytest.mark.parametrize("content", [*DAMAGE.values(), b'{"method": 1}'])
def test_other_commands_name_a_damaged_config(content, run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (workdir / "config.json").write_bytes(content)
    for command in (load_run, open_bundle, lambda path: convert(path, tmp_path / "out", Options())):
        with pytest.raises(UserError, match="run/config.json cannot be read") as caught:
            command(workdir)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", sweep([*DAMAGE.values(), b"[]"], [DAMAGE["cut"]], pytest.mark.slow))
def test_damaged_classes_and_conversions(content, run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (workdir / "classes.json").write_bytes(content)
    with pytest.raises(UserError, match="classes.json cannot be read .*restore it from a copy"):
        open_bundle(workdir)
    (workdir / "classes.json").unlink()
    (workdir / "conversion.json").write_bytes(content)
    text = starting_weights(open_bundle(workdir))
    assert "origin is not recorded (conversion.json cannot be read)" in text and "random" not in text
    with pytest.raises(UserError, match="holds a converted checkpoint"):
        prepare_workdir(workdir, run[1])


def test_names_for_another_number_of_outputs(tmp_path):
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert read_classes(tmp_path, 2) == ("a", "b")
    with pytest.raises(UserError, match="holds 2 names for 3 outputs"):
        read_classes(tmp_path, 3)


@pytest.mark.parametrize(
    "position",
    [[1], "x", {"records": "x"}, {"records": 0, "stage": 1.5}, {"config": []}, {"first_hook": "x"}],
)
def test_positions_of_other_types(position, run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (workdir / "checkpoints" / "0" / "position" / "metadata").write_text(json.dumps(position))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.find_whole().damaged[0].problem == "its position cannot be read"
    with pytest.raises(UserError, match="is damaged"):
        check_position(position, workdir)


def test_files_of_the_users_are_no_run(tmp_path):
    theirs = {"data.json": "[1]", "config.json": '{"compilerOptions": {}}', "metrics.jsonl": "x"}
    for name, content in theirs.items():
        workdir = tmp_path / name
        workdir.mkdir()
        (workdir / name).write_text(content)
        with pytest.raises(UserError, match=f"has {name}, but not as a run of fastmim writes it: type"):
            repair_state_files(workdir, print)
        assert (workdir / name).read_text() == content
    (tmp_path / "config.json" / "config.json").write_text("")
    repair_state_files(tmp_path / "config.json", print)
    assert [path.name for path in (tmp_path / "config.json").iterdir()] == ["damaged-config.json"]


def test_configs_are_flattened_and_back():
    config = small.config().to_dict()
    assert flatten(unflatten(flatten(config))) == flatten(config)
    assert not find_mismatch(config) and not find_mismatch(json.loads(json.dumps(config)))
    assert find_mismatch({"data": {}}) == "it has no section method or model"
    assert find_mismatch({"method": {"backbone": 3}}) == "method.backbone is '3', expected a section"
