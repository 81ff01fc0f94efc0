"""`fastmim finetune` from start to end: what it leaves behind, how it goes on, what it refuses."""

import csv
import json
import signal

import jax
import numpy as np
import pytest

from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.predict import evaluate
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.finetune import finetune, make_finetune_stage, resolve_start
from fastmim_jax.train.inference import open_classifier
from fastmim_jax.train.loop import prepare_workdir
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.runs import load_run
from helpers import small
from helpers.commands import refused
from helpers.processes import finish, kill, losses, starter, write_config

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
    """The work directory of two steps of pre-training."""
    workdir = tmp_path_factory.mktemp("pretrained")
    pretrain(small.config(data, steps=2), workdir, log=lambda text: None)
    return workdir


@pytest.fixture(scope="module")
def tuned(data, pretrained, tmp_path_factory):
    """-> (work directory, lines) of a fine-tuned run."""
    workdir, lines = tmp_path_factory.mktemp("tuned"), []
    assert finetune(small.tuning(data, pretrained), workdir, BestCheckpoint, lines.append) == 8
    return workdir, "\n".join(lines)


def test_a_run_says_what_it_does_and_what_came_out(tuned, pretrained):
    workdir, told = tuned
    assert f"start  {pretrained}/checkpoints/2, step 2" in told
    assert "loaded" in told and "start fresh  encoder/position, head, pooling" in told
    assert "1 image could not be decoded: not counted" in told
    found = json.loads((workdir / "evaluation.json").read_text())
    assert f"{found['top1']:.2%} top-1" in told and found["images"] == 20 and found["undecodable"] == 1
    assert json.loads((workdir / "classes.json").read_text()) == CLASSES == list(found["per_class"])
    with (workdir / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    assert header == ["true", *CLASSES] and counts.sum(1).tolist() == [5] * 4
    assert np.trace(counts) / 20 == found["top1"]
    assert (workdir / "pictures" / "confusion.png").stat().st_size
    report = json.loads((workdir / "transfer.json").read_text())
    assert "params/head/kernel" in report["fresh"] and not report["resampled"]


def test_the_resolved_config_says_all_of_the_backbone(tuned):
    backbone = json.loads((tuned[0] / "config.json").read_text())["model"]["backbone"]
    assert (backbone["name"], backbone["width"], backbone["depth"]) == ("vit_ti8", 32, 2)
    assert backbone["positions"] == "learned" and backbone["position_grid"] == [4, 4]


def test_best_is_the_best_of_all_evaluations(tuned):
    logged = [json.loads(line) for line in (tuned[0] / "metrics.jsonl").read_text().splitlines()]
    evaluations = [(line["step"], line["top1"], line["best_top1"]) for line in logged if "top1" in line]
    assert [step for step, *_ in evaluations] == [2, 4, 6, 8]
    best = max(top1 for _, top1, _ in evaluations)
    assert evaluations[-1][2] == best
    found = json.loads((tuned[0] / "evaluation.json").read_text())
    assert found["top1"] == best
    assert found["step"] == min(step for step, top1, _ in evaluations if top1 == best)


def test_what_is_read_back_is_the_average_of_the_best_step(tuned):
    saved = load_run(tuned[0])
    found = json.loads((tuned[0] / "evaluation.json").read_text())
    assert saved.step == found["step"] and saved.path.parent.name == "best"
    again = evaluate(tuned[0], log=lambda text: None)
    assert {key: again[key] for key in again} == {key: found[key] for key in again}
    last, stage = open_classifier(tuned[0], 8)
    config, _ = resolve_start(last.config, tuned[0])
    with Checkpoints(tuned[0] / "checkpoints") as checkpoints:
        state = checkpoints.restore(8, make_finetune_stage(config, 48, tuple(CLASSES)).abstract)
    for read, average, raw in zip(
        *map(jax.tree.leaves, (last.variables["params"], state.ema["params"], state.params)),
        strict=True,
    ):
        np.testing.assert_array_equal(read, average)
        assert np.any(np.asarray(average) != raw)
    jax.tree.map(np.testing.assert_array_equal, stage.variables, last.variables)


def test_a_finetuned_checkpoint_can_be_a_start_for_other_classes(tuned, tmp_path):
    """Everything is taken but the head, which has other classes here."""
    folder = small.write_classes(tmp_path / "data", train=(16, 16), val=(4, 4))
    workdir, lines = tmp_path / "again", []
    finetune(small.tuning(folder, tuned[0], steps=1), workdir, BestCheckpoint, lines.append)
    report = json.loads((workdir / "transfer.json").read_text())
    head = ["params/head/bias", "params/head/kernel"]
    assert sorted(report["fresh"]) == sorted(report["unused"]) == head and not report["resampled"]
    same = tmp_path / "same"
    config = small.tuning(folder, f"{tuned[0]}/checkpoints/6", steps=1)
    config.data.update(image_size=(48, 48), eval_resize=48)
    finetune(config, same, BestCheckpoint, lines.append)
    report = json.loads((same / "transfer.json").read_text())
    assert report["resampled"] == ["params/encoder/position/pos_embed"]


def test_best_counts_only_what_was_before(tuned, tmp_path, monkeypatch):
    """After an interruption an older step may be judged again, when best/ is already ahead of it."""
    loaded = load_run(tuned[0])
    stage = make_finetune_stage(loaded.config, 48, tuple(CLASSES))
    state, accuracies = stage.create(), {}

    class Found:
        top5, loss = 1.0, np.zeros(3)

        def __init__(self, top1):
            self.top1 = top1

    monkeypatch.setattr(
        "fastmim_jax.evaluate.best_checkpoint.classify", lambda *_, **__: Found(accuracies[current[0]])
    )
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
    with Checkpoints(tmp_path / "best") as kept:
        assert kept.latest() == 5 and kept.position(5)["history"] == [[1, 0.2], [3, 0.5], [5, 0.7]]


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(data, pretrained, tmp_path):
    """Its folders are there, but the parameters to start from have still to be read."""
    config = small.tuning(data, pretrained)
    complete, saved = resolve_start(config, tmp_path)
    assert saved.step == 2
    prepare_workdir(tmp_path, complete)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    again, saved = resolve_start(config, tmp_path)
    assert saved.step == 2 and again.to_dict() == complete.to_dict()
    (tmp_path / "checkpoints" / "3").mkdir()
    again, saved = resolve_start(small.tuning(data, pretrained), tmp_path)
    assert saved is None and again.to_dict() == complete.to_dict()


CHANGES = """
    config.schedule.update(steps=14, accumulation=2)
    config.run.checkpoint_every = 6
"""


def test_killed_runs_go_on_to_the_bit(data, pretrained, tmp_path):
    """Losses, evaluations and the best checkpoint of a run that was killed, and of one that was not."""
    command = starter(tmp_path, data, CHANGES, "finetune", init=pretrained)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    never_killed = command(whole)
    output = finish(kill(command, broken, signal.SIGTERM, 3))
    assert "stopped by SIGTERM after step" in output and "Traceback" not in output
    kill(command, broken, signal.SIGKILL, 11).wait(60)  # best/ may be ahead of the newest checkpoint
    assert "top-1" in finish(command(broken))
    assert "broken.png" in finish(never_killed)
    expected = losses(whole)
    assert len([1 for _, name in expected if name == "loss"]) == 14
    assert len([1 for _, name in expected if name == "best_top1"]) == 7
    assert losses(broken) == expected
    for name in ("evaluation.json", "confusion.csv"):
        one, other = (path / name for path in (broken, whole))
        assert one.read_text() == other.read_text()
    one, other = load_run(broken), load_run(whole)
    assert one.step == other.step and one.path.parent.name == "best"
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("model.pooling=mean", "unknown model.pooling 'mean': there is pool_norm, norm_pool"),
        ("model.backbone.name=swin_t", "is 'swin_t', but the checkpoint of config.init is of 'vit_ti8'"),
        ("model.backbone.width=64", "is (32,) in the source and (64,) in the model: give a checkpoint of"),
        ("model.classes=5", "config.model.classes is 5, but"),
        ("augment.mix_groups=3", "does not divide the batch of 16: type --config.augment.mix_groups=1"),
        ("augment.mix_groups=6", "type --config.augment.mix_groups=2"),
        ("augment.mix_groups=0", "type --config.augment.mix_groups=1"),
        ("augment.random_erasing=2", "config.augment.random_erasing is 2.0, expected a share from 0 to 1"),
        ("init=nowhere/at/all", "nowhere/at/all does not exist: expected the --workdir of a run"),
        ("init={data}", "has no config.json: expected the --workdir of a run"),
        ("init={pretrained}/checkpoints/7", "has no checkpoint of step 7: there is 2"),
        ("data.path={flat}", "no class folders; expected one folder per class"),
        ("data.path={data}/train", "has no val or test split to evaluate on: type --config.data.eval_path"),
        ("data.eval_path={other}", "(not in both: class2, class3): expected the same class folders"),
        ("schedule.batch_size=12", "--config.schedule.batch_size=16"),
        ("data.eval_resize=30", "expected a short side of at least the 32 pixels that are cropped from it"),
        ("model.kernel=cudnn", "type --config.model.kernel=xla"),
    ],
)
def test_configs_that_cannot_work(capsys, data, pretrained, sources, tmp_path, words, told):
    config = write_config(tmp_path, data, command="finetune", init=pretrained)
    words = words.format(data=data, pretrained=pretrained, **sources)
    workdir = tmp_path / "w"
    assert told in refused(capsys, "finetune", config, f"--workdir={workdir}", f"--config.{words}")
    assert not workdir.exists()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """{name: folder} of data that does not fit: without labels, with other classes."""
    folder = tmp_path_factory.mktemp("sources")
    small.write_images(folder / "flat", 4)
    small.write_classes(folder / "other", train=(3, 3), val=(3, 3))
    return {"flat": folder / "flat", "other": folder / "other"}


def test_a_cls_token_that_is_not_there(capsys, data, tmp_path):
    changes = "    config.model.backbone.update(**small.TINY['swin'], positions=None)"
    config = write_config(tmp_path, data, changes, "finetune")
    told = refused(capsys, "finetune", config, f"--workdir={tmp_path / 'w'}", "--config.model.pooling=cls")
    assert "'swin_t' has no cls token: type --config.model.pooling=norm_pool" in told


def test_a_run_without_a_checkpoint_is_no_start(capsys, data, pretrained, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((pretrained / "config.json").read_text())
    config = write_config(tmp_path, data, command="finetune", init=empty)
    assert "holds no checkpoint yet" in refused(capsys, "finetune", config, f"--workdir={tmp_path / 'w'}")


def test_each_command_has_its_own_configs(capsys, data, tmp_path):
    for command, other in (("pretrain", "finetune"), ("finetune", "pretrain")):
        config = write_config(tmp_path, data, command=other)
        told = refused(capsys, command, config, f"--workdir={tmp_path / 'w'}")
        assert f"type fastmim {other} with it" in told


def test_pretrained_work_directories_have_no_classes(capsys, data, pretrained, tuned):
    for words in (["evaluate"], ["predict", f"--images={data}"]):
        told = refused(capsys, *words, f"--workdir={pretrained}")
        assert "was not fine-tuned: expected the --workdir of a `fastmim finetune`" in told
    assert "was fine-tuned: expected" in refused(capsys, "reconstruct", f"--workdir={tuned[0]}")


def test_evaluation_wants_the_classes_of_training(capsys, tuned, sources):
    workdir = f"--workdir={tuned[0]}"
    told = refused(capsys, "evaluate", workdir, f"--images={sources['other']}")
    assert "has 2 classes, the head has 4 (not in both: class2, class3)" in told
    assert "no class folders" in refused(capsys, "evaluate", workdir, f"--images={sources['flat']}")


def test_a_run_goes_on_only_with_its_own_config(capsys, tuned, data, pretrained, tmp_path):
    config = write_config(tmp_path, data, command="finetune", init=pretrained)
    words = [f"--workdir={tuned[0]}", "--config.optimizer.layer_decay=0.5"]
    told = refused(capsys, "finetune", config, *words)
    assert "was started with another config (config.optimizer.layer_decay was 0.65, is 0.5)" in told
