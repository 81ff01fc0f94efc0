"""Pre-training, fine-tuning and probes from Python: which config they choose, and short runs."""

from pathlib import Path

import pytest

import fastmim_jax
from fastmim_jax.api import runs, training
from fastmim_jax.auto_schedule import has_auto
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.predict import evaluate
from helpers import labelled_images, small


@pytest.fixture
def chosen(monkeypatch):
    """The configs that runs would train with, instead of the runs."""
    configs = []
    for name in ("pretrain", "finetune", "segment"):
        monkeypatch.setattr(runs, name, lambda config, *_, **__: configs.append(config))
    monkeypatch.setattr(runs, "draw_loss_curve", lambda workdir: None)
    monkeypatch.setattr(runs, "summary_lines", lambda *_: [])
    monkeypatch.setattr(runs, "summarize", lambda *_: None)
    return configs


@pytest.mark.parametrize(
    ("options", "name", "backbone"),
    [
        ({}, "mae", "vit_ti8"),
        (dict(model="vit_ti16", method="mae"), "mae", "vit_ti16"),
        (dict(model="vit_ti8"), "mae", "vit_ti8"),
        (dict(model="swin_t", method="simmim"), "simmim", "swin_t"),
        (dict(method="fastmim", model="pvt_v2_b2"), "fastmim", "pvt_v2_b2"),
        (dict(method="mixmim"), "mixmim", "mixmim_b"),
        (dict(method="pr_mim"), "mae", "vit_b16"),
        (dict(config="configs/mixmim.py:tiny"), "mixmim", "mixmim_b"),
    ],
)
def test_the_recipe_of_a_method_and_a_model(chosen, tmp_path, options, name, backbone):
    assert fastmim_jax.pretrain("sample", tmp_path, **options, workers=0) == Path(tmp_path)
    (config,) = chosen
    assert config.method.name == name and config.method.backbone.name == backbone
    assert config.run.workers == 0 and config.data.path == "sample"
    assert has_auto(config) == ("config" not in options)
    if backbone == "vit_ti8":
        assert config.method.block_size == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="mea"), "no method 'mea'; did you mean mae?"),
        (dict(method="mixmim", model="vit_b16"), "mixmim has no recipe for model='vit_b16'"),
        (dict(model="vit_x16", method="mae"), "'vit_x16'"),
        (dict(config="configs/finetune.py"), r"call fastmim_jax.finetune\(\) with it"),
        (dict(config="configs/segment.py:tiny"), r"call fastmim_jax.segment\(\) with it"),
        (dict(config="configs/own.py:tiny", method="mae"), "give one of them"),
        (dict(batchsize=3), "did you mean schedule__batch_size"),
        (dict(mask_ratio=2), "type method__mask_ratio=0.75"),
        (dict(config="configs/mea.py"), "did you mean configs/mae.py"),
    ],
)
def test_what_cannot_be_meant(chosen, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        fastmim_jax.pretrain("sample", tmp_path, **options)


def test_segment_chooses_its_config(chosen, tmp_path):
    fastmim_jax.segment("photos", tmp_path, model="swin_t", steps=3, image_size=64)
    (config,) = chosen
    assert config.model.backbone.name == "swin_t" and config.schedule.steps == 3
    assert config.data.image_size == (64, 64) and config.data.path.endswith("/photos")
    with pytest.raises(UserError, match=r"call fastmim_jax.finetune\(\) with it"):
        fastmim_jax.segment("photos", tmp_path, config="configs/finetune.py")
    with pytest.raises(UserError, match=r"call fastmim_jax.segment\(\) with it"):
        fastmim_jax.finetune("photos", tmp_path, config="configs/segment.py:tiny")


def test_probes_of_pixels(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(training, "dense_probe", lambda *args, **options: seen.append((args, options)))
    fastmim_jax.probe(tmp_path, "masks", kinds=("segmentation",), eval_mode="slide", count=9)
    ((path, data), options) = seen[0]
    assert path == str(tmp_path) and data.endswith("/masks") and data != "masks"
    assert options["eval_mode"] == "slide" and options["count"] == 9 and options["test"] is None
    for words, message in (
        (dict(kinds=("depth",)), "without folds: give data$"),
        (dict(kinds=("depth",), data="rooms", folds=2), "without folds: leave out folds$"),
        (
            dict(legend="a.txt"),
            "legend is for probes of pixels: leave it out, or type kinds='segmentation'",
        ),
        (dict(evalmode="slide"), "no option 'evalmode'; .*did you mean eval_mode"),
        (dict(kinds=("depth", "ridge")), "type two commands"),
    ):
        with pytest.raises(UserError, match=message):
            fastmim_jax.probe(tmp_path, **words)


@pytest.mark.slow
def test_pretrain_probe_finetune_and_load(tmp_path, one_device, capsys):
    images = labelled_images.write_images(tmp_path / "images", each=8)
    config = small.config(images, steps=2)
    run = fastmim_jax.pretrain(images, tmp_path / "run", config=config, batch_size=8)
    lines = fastmim_jax.probe(run, images, folds=2)
    assert {line.kind for line in lines} == {"ridge"} and len(lines) == 4
    tuned = fastmim_jax.finetune(
        images,
        tmp_path / "tuned",
        init=fastmim_jax.load(run),
        epochs=1,
        workers=0,
        dtype="float32",
    )
    lines = capsys.readouterr().out
    assert "auto" in lines and "held out  3 images of 3 classes" in lines
    summary, lines = (
        [evaluate(tuned, path, log=print) for path in (None, str(images))],
        capsys.readouterr().out,
    )
    assert [one["images"] for one in summary] == [3, 24]
    assert lines.count(f"{images} holds images of training too: leave out --images") == 1
    assert len(fastmim_jax.load(tuned).predict(images)) == 24
