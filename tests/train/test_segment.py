"""`fastmim segment` from start to end: it learns, its loss is exact, it resumes to the bit."""

import json
import shutil
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import fastmim_jax
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.segmentation.predict import evaluate, predict
from fastmim_jax.export.bundle import open_bundle
from fastmim_jax.models.dense.segmenter import SegmentationLogits
from fastmim_jax.train import sharding, steps
from fastmim_jax.train.inference import open_classifier
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.segmenter_stage import open_segmenter
from fastmim_jax.train.state import initial_state
from helpers.commands import refused
from helpers.processes import finish, kill, losses, starter, write_config
from helpers.stripes import write_stripes

RNG = np.random.default_rng(0)


class Pixels(nn.Module):
    """Logits on cells of 2 pixels, and others on cells of 4."""

    @nn.compact
    def __call__(self, images):
        conv = lambda side, name: nn.Conv(3, (side, side), side, name=name)(images)  # noqa: E731
        return SegmentationLogits(conv(2, "main"), conv(4, "auxiliary"))


MASK = RNG.integers(-1, 3, (16, 8, 8)).astype(np.int16)
MASK[:5] = -1  # parts of a batch have other numbers of labelled pixels
BATCH = {"image": RNG.normal(size=(16, 8, 8, 3)).astype(np.float32), "mask": MASK}


def update(batch, accumulation=1, **options):
    """-> (state, metrics) after a step of plain gradient descent."""
    model = Pixels()
    variables = model.init(jax.random.key(0), batch["image"][:1])
    state = initial_state(variables, lambda params: optax.identity())
    return jax.jit(
        lambda state, batch: steps.segment_step(
            state,
            batch,
            model=model,
            prepare=lambda images: images,
            key=jax.random.key(1),
            optimizer=optax.identity(),
            schedule=lambda step: 0.1,
            accumulation=accumulation,
            **options,
        )
    )(state, batch)


def expected_loss(class_weights):
    """The loss in a few lines of NumPy."""
    model = Pixels()
    logits = model.apply(model.init(jax.random.key(0), BATCH["image"][:1]), BATCH["image"])
    weights = np.where(MASK >= 0, np.asarray(class_weights)[MASK], 0)

    def mean(x):
        log = np.asarray(jax.nn.log_softmax(jax.image.resize(x, (16, 8, 8, 3), "bilinear")))
        picked = np.take_along_axis(log, np.maximum(MASK, 0)[..., None].astype(int), -1)[..., 0]
        return -(picked * weights).sum() / weights.sum()

    return mean(logits.main) + 0.4 * mean(logits.auxiliary)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5)])
def test_the_loss_is_the_mean_over_labelled_pixels_whatever_the_parts_and_devices(weights):
    state, metrics = update(BATCH, class_weights=weights)
    np.testing.assert_allclose(metrics["loss"], expected_loss(weights or (1.0, 1.0, 1.0)), rtol=1e-5)
    with jax.set_mesh(mesh := sharding.make_mesh()):
        spread = jax.device_put(BATCH, sharding.batch_sharding(mesh))
        others = [update(spread, parts, class_weights=weights) for parts in (1, 2)]
    others.append(update(BATCH, 4, class_weights=weights))
    for other, found in others:
        np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(found["grad_norm"], metrics["grad_norm"], rtol=1e-4)
        for one, two in zip(*map(jax.tree.leaves, (state.params, other.params)), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.slow
def test_a_batch_without_labels_changes_nothing():
    batch = {**BATCH, "mask": np.full_like(MASK, -1)}
    state, metrics = update(batch)
    assert metrics["loss"] == 0 and metrics["skipped"] == 0 and jnp.isfinite(metrics["grad_norm"])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight and five images with masks, and a mask of another size than its image in training."""
    folder = write_stripes(tmp_path_factory.mktemp("data"))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "masks" / "train" / "bad.png")
    shutil.copy(folder / "images" / "train" / "00.png", folder / "images" / "train" / "bad.png")
    return folder


CHANGES = """
    config.schedule.steps = 40
    config.run.update(checkpoint_every=20, eval_epochs=20.0)
"""


@pytest.fixture(scope="module")
def command(data, tmp_path_factory):
    """start(workdir): a process that trains on one device."""
    return starter(tmp_path_factory.mktemp("config"), data, CHANGES, "segment")


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """-> (work directory, what was printed) of a run that is never killed."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, finish(command(workdir))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_run_learns_what_colour_does_not_tell(run):
    workdir, message = run
    found = json.loads((workdir / "evaluation.json").read_text())
    assert f"mIoU {found['miou']:.2%}" in message and found["images"] == 5
    # The majority class has a third of its own IoU, and classes have the same colours.
    assert found["miou"] > 0.5 and min(line["iou"] for line in found["per_class"].values()) > 0.2
    assert "1 of 9 records could not be decoded and were replaced" in message
    assert "a mask of another size than their image (5 x 5, the image 52 x 49)" in message
    assert "fpn of 16 channels, 3 classes, auxiliary loss x 0.4" in message
    for name in ("classes.csv", "confusion.csv", "pictures/confusion.png", "pictures/segmentation.png"):
        assert (workdir / name).stat().st_size
    assert len(list((workdir / "pictures").glob("segmentation_*.png"))) >= 1


@pytest.mark.slow
@pytest.mark.multiprocess
def test_killed_runs_resume_to_the_bit(command, run, tmp_path):
    """SIGTERM saves the current step; SIGKILL leaves an older one, and a best checkpoint ahead of it."""
    output = finish(kill(command, tmp_path, signal.SIGTERM, 3), code=128 + signal.SIGTERM)
    stopped = max(step for step, _ in losses(tmp_path))
    assert f"stopped by SIGTERM after step {stopped}" in output and "Traceback" not in output
    kill(command, tmp_path, signal.SIGKILL, 23).wait(60)
    assert 23 <= max(step for step, _ in losses(tmp_path)) < 40 and (tmp_path / "best").exists()
    output = finish(command(tmp_path))
    assert "resuming at step 20 of 40" in output and "Traceback" not in output
    expected = losses(run[0])
    assert len([1 for _, name in expected if name == "miou"]) == 2
    assert losses(tmp_path) == expected
    for name in ("evaluation.json", "classes.csv", "confusion.csv"):
        assert (tmp_path / name).read_text() == (run[0] / name).read_text()
    one, other = load_run(tmp_path), load_run(run[0])
    assert one.step == other.step and one.path.parent.name == "best"
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_evaluate_and_predict(run, data, tmp_path):
    """On eight devices: what the run has measured on one, but for rounding."""
    found = json.loads((run[0] / "evaluation.json").read_text())
    again = evaluate(run[0], log=lambda text: None, out=tmp_path / "scores.json")
    assert abs(again["miou"] - found["miou"]) < 1e-3 and (tmp_path / "scores.json").exists()
    assert predict(run[0], str(data / "images" / "val"), out=tmp_path / "maps", log=lambda text: None) == 5
    labels = np.asarray(Image.open(tmp_path / "maps" / "00.png"))
    assert labels.shape == np.asarray(Image.open(data / "masks" / "val" / "00.png")).shape
    assert labels.max() < 3 and (tmp_path / "maps" / "00_overlay.png").exists()
    loaded, _ = open_segmenter(run[0])
    assert loaded.path.parent.name == "best"
    with pytest.raises(UserError, match="was not fine-tuned: expected"):
        open_classifier(run[0])
    bundle = open_bundle(run[0])
    assert set(bundle.variables["params"]) == {"encoder"} and "a bare backbone" in bundle.description
    model = fastmim_jax.load(run[0])
    assert not model.classes and model.features(data / "images" / "val").pooled.shape == (5, 32)


@pytest.mark.slow
def test_masks_beyond_the_classes_are_named(capsys, data, tmp_path):
    config = write_config(tmp_path, data, command="segment")
    words = refused(capsys, "segment", config, f"--workdir={tmp_path / 'w'}", "--config.model.classes=2")
    assert ".png (a mask with values beyond the classes (" in words
    assert "with values beyond the classes" in (tmp_path / "w" / "bad_files.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.path=", "config.data.path is not set, expected images with masks"),
        ("model.head.layers=(1,1,2,3)", "expected ascending numbers from 1 to 2 blocks: type"),
        ("loss.class_weights=(1.0,2.0)", "has 2 numbers for 3 classes"),
        ("data.eval_stride=(40,32)", "leaves gaps between windows of 32 x 32 pixels"),
        ("model.head.name=psp", "config.model.head.name is 'psp'; choose from: upernet, fpn"),
    ],
)
def test_unusable_configs_are_refused(capsys, data, tmp_path, words, message):
    config = write_config(tmp_path, data, command="segment")
    workdir = tmp_path / "w"
    assert message in refused(capsys, "segment", config, f"--workdir={workdir}", f"--config.{words}")
    assert not workdir.exists()


def test_each_command_has_its_own_configs(capsys, tmp_path):
    for command, other in (("segment", "finetune"), ("finetune", "segment"), ("pretrain", "segment")):
        config = write_config(tmp_path, "sample" if other == "finetune" else "", command=other)
        message = refused(capsys, command, config, f"--workdir={tmp_path / 'w'}")
        assert f"type fastmim {other} with it" in message
