"""`fastmim finetune` from start to end: its files, its resumption, its refusals."""

import csv
import json
import shutil
import signal

import jax
import numpy as np
import pytest

from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.predict import evaluate
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.finetune import finetune, make_finetune_stage
from fastmim_jax.train.inference import open_classifier
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.supervised import resolve_start
from fastmim_jax.train.warm_start import transfer_report
from fastmim_jax.train.workdir import prepare_workdir
from helpers import small
from helpers.commands import refused
from helpers.processes import finish, kill, losses, starter, write_config
from helpers.stages import untrained

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

CLASSES = [f"class{index}" for index in range(4)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 and 20 images of four classes, with a broken file in each split."""
    folder = small.write_classes(tmp_path_factory.mktemp("data"))
    for split in ("train", "val"):
        (folder / split / "class1" / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """A work directory of pre-training with a checkpoint of step 2."""
    return untrained(small.config(data, steps=2), tmp_path_factory.mktemp("pretrained"), step=2)


@pytest.fixture(scope="module")
def finetuned(data, pretrained, tmp_path_factory):
    """-> (work directory, lines) of a fine-tuned run."""
    workdir, lines = tmp_path_factory.mktemp("tuned"), []
    assert finetune(small.tuning(data, pretrained), workdir, BestCheckpoint, lines.append) == 8
    return workdir, "\n".join(lines)


def test_a_run_describes_itself_and_its_result(finetuned, pretrained):
    workdir, message = finetuned
    assert f"start  {pretrained}/checkpoints/2, step 2" in message
    assert "loaded" in message and "start fresh  encoder/position, head, pooling" in message
    assert "1 image could not be decoded: not counted" in message
    found = json.loads((workdir / "evaluation.json").read_text())
    assert f"{found['top1']:.2%} top-1" in message and found["images"] == 20 and found["undecodable"] == 1
    assert json.loads((workdir / "classes.json").read_text()) == CLASSES == list(found["per_class"])
    with (workdir / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    assert header == ["true", *CLASSES] and counts.sum(1).tolist() == [5] * 4
    assert np.trace(counts) / 20 == found["top1"]
    assert (workdir / "pictures" / "confusion.png").stat().st_size
    (events,) = (workdir / "tensorboard").glob("events*")
    for name in ("confusion", "curve"):  # the names of the files
        assert name.encode() in events.read_bytes() and (workdir / "pictures" / f"{name}.png").exists()
    report = json.loads((workdir / "transfer.json").read_text())
    assert "params/head/kernel" in report["fresh"] and not report["resampled"]


def test_the_resolved_config_has_a_complete_backbone(finetuned):
    backbone = json.loads((finetuned[0] / "config.json").read_text())["model"]["backbone"]
    assert (backbone["name"], backbone["width"], backbone["depth"]) == ("vit_ti8", 32, 2)
    assert backbone["positions"] == "learned" and backbone["position_grid"] == [4, 4]


def test_best_is_the_best_of_all_evaluations(finetuned):
    logged = [json.loads(line) for line in (finetuned[0] / "metrics.jsonl").read_text().splitlines()]
    evaluations = [(line["step"], line["top1"], line["best_top1"]) for line in logged if "top1" in line]
    assert [step for step, *_ in evaluations] == [2, 4, 6, 8]
    best = max(top1 for _, top1, _ in evaluations)
    assert evaluations[-1][2] == best
    found = json.loads((finetuned[0] / "evaluation.json").read_text())
    assert found["top1"] == best
    assert found["step"] == min(step for step, top1, _ in evaluations if top1 == best)


def test_the_moving_average_of_the_best_step_is_loaded(finetuned):
    loaded = load_run(finetuned[0])
    found = json.loads((finetuned[0] / "evaluation.json").read_text())
    assert loaded.step == found["step"] and loaded.path.parent.name == "best"
    again = evaluate(finetuned[0], log=lambda text: None)
    assert {key: again[key] for key in again} == {key: found[key] for key in again}
    last, stage = open_classifier(finetuned[0], 8)
    config, _ = resolve_start(last.config, finetuned[0])
    with Checkpoints(finetuned[0] / "checkpoints") as checkpoints:
        state = checkpoints.restore(8, make_finetune_stage(config, 48, tuple(CLASSES)).abstract)
    for read, average, raw in zip(
        *map(jax.tree.leaves, (last.variables["params"], state.ema["params"], state.params)),
        strict=True,
    ):
        np.testing.assert_array_equal(read, average)
        assert np.any(np.asarray(average) != raw)
    jax.tree.map(np.testing.assert_array_equal, stage.variables, last.variables)


def test_a_finetuned_checkpoint_can_be_a_start_for_other_classes(finetuned, tmp_path):
    """All parameters are loaded but the head, which has other classes here."""

    def report(config):
        config, loaded = resolve_start(config, tmp_path)
        stage = make_finetune_stage(config, 32, ("a", "b"), loaded=loaded)
        assert int(stage.create().step) == 0
        return transfer_report(loaded.variables, stage.abstract)

    found, head = report(small.tuning("sample", finetuned[0])), ["params/head/bias", "params/head/kernel"]
    assert sorted(found.fresh) == sorted(found.unused) == head and not found.resampled
    config = small.tuning("sample", f"{finetuned[0]}/checkpoints/6")
    config.data.update(image_size=(48, 48), eval_resize=48)
    assert report(config).resampled == ["params/encoder/position/pos_embed"]


def test_the_history_of_best_ignores_later_steps(finetuned, tmp_path, monkeypatch):
    """After an interruption an older step may be evaluated again while best/ is ahead of it."""
    loaded = load_run(finetuned[0])
    stage = make_finetune_stage(loaded.config, 48, tuple(CLASSES))
    state, accuracies = stage.create(), {}

    class Found:
        top5, loss = 1.0, np.zeros(3)

        def __init__(self, top1):
            self.top1 = top1

    monkeypatch.setattr(
        "fastmim_jax.evaluate.best_checkpoint.classify", lambda *_, **__: Found(accuracies[current[0]])
    )
    monkeypatch.setattr("fastmim_jax.evaluate.best_checkpoint.draw_evaluation", lambda *_: {})
    current = [0]

    def evaluate_at(best, step):
        current[0] = step
        return best.evaluate(step, state)["best_top1"]

    accuracies.update({1: 0.2, 2: 0.1, 3: 0.5, 4: 0.5, 5: 0.7})
    with BestCheckpoint(stage, None, tmp_path) as best:
        first = [evaluate_at(best, step) for step in range(1, 6)]
        assert first == [0.2, 0.2, 0.5, 0.5, 0.7]
    with BestCheckpoint(stage, None, tmp_path) as best:
        assert [evaluate_at(best, step) for step in range(2, 6)] == first[1:]
    with Checkpoints(tmp_path / "best") as checkpoints:
        assert checkpoints.latest() == 5 and checkpoints.position(5)["history"] == [
            [1, 0.2],
            [3, 0.5],
            [5, 0.7],
        ]


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(data, pretrained, tmp_path):
    """Its folders are there, but the parameters to start from have still to be read."""
    config = small.tuning(data, pretrained)
    complete, loaded = resolve_start(config, tmp_path)
    assert loaded.step == 2
    prepare_workdir(tmp_path, complete)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    again, loaded = resolve_start(config, tmp_path)
    assert loaded.step == 2 and again.to_dict() == complete.to_dict()
    (tmp_path / "checkpoints" / "3").mkdir()
    again, loaded = resolve_start(small.tuning(data, pretrained), tmp_path)
    assert loaded is None and again.to_dict() == complete.to_dict()


def test_an_interrupted_run_resumes_to_the_bit(finetuned, data, pretrained, tmp_path):
    """The newest checkpoint is of step 3, later steps are logged, and best/ may be ahead."""
    shutil.copytree(finetuned[0], tmp_path, dirs_exist_ok=True)
    for step in ("6", "8"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    (tmp_path / "evaluation.json").unlink()
    lines = []
    assert finetune(small.tuning(data, pretrained), tmp_path, BestCheckpoint, lines.append) == 8
    assert "resuming at step 3 of 8" in "\n".join(lines)
    assert losses(tmp_path) == losses(finetuned[0])
    for name in ("evaluation.json", "confusion.csv"):
        assert (tmp_path / name).read_text() == (finetuned[0] / name).read_text()


CHANGES = """
    config.schedule.update(steps=14, accumulation=2)
    config.run.checkpoint_every = 6
"""


@pytest.mark.multiprocess
@pytest.mark.exhaustive
def test_killed_runs_resume_to_the_bit(data, pretrained, tmp_path):
    """Losses, evaluations and the best checkpoint of a run that was killed, and of one that was not."""
    command = starter(tmp_path, data, CHANGES, "finetune", init=pretrained)
    reference, broken = tmp_path / "reference", tmp_path / "broken"
    never_killed = command(reference)
    kill(command, broken, signal.SIGKILL, 11).wait(60)  # best/ may be ahead of the newest checkpoint
    assert "top-1" in finish(command(broken))
    assert "broken.png" in finish(never_killed)
    expected = losses(reference)
    assert len([1 for _, name in expected if name == "loss"]) == 14
    assert len([1 for _, name in expected if name == "best_top1"]) == 7
    assert losses(broken) == expected
    for name in ("evaluation.json", "confusion.csv"):
        one, other = (path / name for path in (broken, reference))
        assert one.read_text() == other.read_text()
    one, other = load_run(broken), load_run(reference)
    assert one.step == other.step and one.path.parent.name == "best"
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.pooling=mean", "config.model.pooling is 'mean'; choose from: pool_norm, norm_pool"),
        ("model.backbone.name=swin_t", "is 'swin_t', but the checkpoint of config.init has 'vit_ti8'"),
        ("model.backbone.width=64", "is (32,) in the source and (64,) in the model: give a checkpoint of"),
        ("model.classes=5", "config.model.classes is 5, but"),
        ("augment.mix_groups=3", "does not divide a batch of 16: type --config.augment.mix_groups=1"),
        ("augment.mix_groups=6", "type --config.augment.mix_groups=2"),
        ("augment.mix_groups=0", "type --config.augment.mix_groups=1"),
        (
            "augment.random_erasing=2",
            "config.augment.random_erasing is 2.0, expected a number at least 0 and at most 1",
        ),
        ("init=nowhere/at/all", "nowhere/at/all does not exist: expected the --workdir of a run"),
        ("init={data}", "has no config.json: expected the --workdir of a run"),
        ("init={pretrained}/checkpoints/7", "has no checkpoint of step 7: choose from: 2"),
        ("data.path={flat}", "no class folders; expected one folder per class"),
        ("data.eval_split=other", "The split 'other' was asked for"),
        ("data.eval_path={other}", "not among the 4 of the model: zebra; expected"),
        ("schedule.batch_size=12", "--config.schedule.batch_size=16"),
        (
            "data.eval_resize=30",
            "expected at least the 32 pixels that are cropped: type --config.data.eval_resize=32",
        ),
        ("model.kernel=cudnn", "type --config.model.kernel=xla"),
    ],
)
def test_unusable_configs_are_refused(
    capsys, all_devices, data, pretrained, sources, tmp_path, words, message
):
    config = write_config(tmp_path, data, command="finetune", init=pretrained)
    words = words.format(data=data, pretrained=pretrained, **sources)
    workdir = tmp_path / "w"
    assert message in refused(capsys, "finetune", config, f"--workdir={workdir}", f"--config.{words}")
    assert not workdir.exists()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{name: folder} of data that does not fit: without labels, with other classes."""
    folder = tmp_path_factory.mktemp("sources")
    small.write_images(folder / "flat", 4)
    small.write_classes(folder / "other", train=(3, 3), val=(3, 3))
    for split in ("train", "val"):
        (folder / "other" / split / "class0").rename(folder / "other" / split / "zebra")
    return {"flat": folder / "flat", "other": folder / "other"}


def test_a_missing_cls_token_is_refused(capsys, data, tmp_path):
    changes = "    config.model.backbone.update(**small.TINY['swin'], positions=None)"
    config = write_config(tmp_path, data, changes, "finetune")
    message = refused(
        capsys, "finetune", config, f"--workdir={tmp_path / 'w'}", "--config.model.pooling=cls"
    )
    assert "'swin_t' has no cls token: type --config.model.pooling=norm_pool" in message


def test_a_run_without_a_checkpoint_is_refused_as_a_start(capsys, data, pretrained, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((pretrained / "config.json").read_text())
    config = write_config(tmp_path, data, command="finetune", init=empty)
    assert "holds no checkpoint yet" in refused(capsys, "finetune", config, f"--workdir={tmp_path / 'w'}")


def test_each_command_has_its_own_configs(capsys, data, tmp_path):
    for command, other in (("pretrain", "finetune"), ("finetune", "pretrain")):
        config = write_config(tmp_path, data, command=other)
        message = refused(capsys, command, config, f"--workdir={tmp_path / 'w'}")
        assert f"type fastmim {other} with it" in message


def test_pretrained_work_directories_have_no_classes(capsys, data, pretrained, finetuned):
    for words in (["evaluate"], ["predict", f"--images={data}"]):
        message = refused(capsys, *words, f"--workdir={pretrained}")
        assert "was not fine-tuned: expected the --workdir of a `fastmim finetune`" in message
    assert "was fine-tuned: expected" in refused(capsys, "reconstruct", f"--workdir={finetuned[0]}")


def test_evaluation_requires_the_classes_of_training(capsys, finetuned, sources):
    workdir = f"--workdir={finetuned[0]}"
    message = refused(capsys, "evaluate", workdir, f"--images={sources['other']}")
    assert "has classes that are not among the 4 of the model: zebra" in message
    assert "no class folders" in refused(capsys, "evaluate", workdir, f"--images={sources['flat']}")


def test_a_run_resumes_only_with_its_own_config(capsys, finetuned, data, pretrained, tmp_path):
    config = write_config(tmp_path, data, command="finetune", init=pretrained)
    words = [f"--workdir={finetuned[0]}", "--config.optimizer.layer_decay=0.5"]
    message = refused(capsys, "finetune", config, *words)
    assert "was started with another config (config.optimizer.layer_decay was 0.65, is 0.5)" in message
