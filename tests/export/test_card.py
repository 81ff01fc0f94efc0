"""Model cards: the weights that training began from, their licence, facts and results."""

import json
import shutil

import pytest

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.card import (
    LICENCE_IDS,
    LICENCES,
    lineage,
    lineage_of_export,
    model_card,
    starting_weights,
)
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.train.lineage import Lineage, record_lineage, write_lineage
from fastmim_jax.train.runs import LoadedRun


def bundle(workdir=None, init="", **others):
    config = finetune_config()
    config.init = str(init)
    config.model.backbone.name = "vit_b16"
    return ModelBundle(config, {}, workdir=workdir, **others)


def write_run(workdir, init="", **conversion):
    """A work directory whose run began from `init`, or whose weights were converted."""
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"init": str(init)}))
    if conversion:
        (workdir / "conversion.json").write_text(json.dumps(conversion))
    return workdir


def test_random_weights_have_no_lineage(tmp_path):
    for run in (bundle(), bundle(write_run(tmp_path / "run"))):
        assert lineage(run) == ([], {})
        assert starting_weights(run).startswith("None: all parameters were initialised at random")


@pytest.mark.parametrize("checkpoint", ["", "checkpoints/150"])
def test_the_lineage_is_followed_to_the_converted_file(tmp_path, checkpoint):
    conversion = dict(source="mae.pth", format="mae_vit")
    converted = write_run(tmp_path / "converted", **conversion)
    before = write_run(tmp_path / "before", converted)
    run = bundle(write_run(tmp_path / "run", before), before / checkpoint)
    assert lineage(run).origin == conversion
    step = ", its checkpoint of step 150" if checkpoint else ""
    assert starting_weights(run) == (
        f"Training began from a run of fastmim_jax{step}. `mae.pth`, a file in the format `mae_vit`: "
        "weights published in it are under CC-BY-NC 4.0 "
        "(facebookresearch/mae)."
    )


def test_a_lost_run_is_named(tmp_path):
    lost = tmp_path / "lost"
    run = bundle(write_run(tmp_path / "run", lost), lost)
    assert lineage(run).origin["source"] == str(lost)
    ending = (
        "whose origin is not recorded (their folder is gone, and the run that began there is older than "
        "lineage.json): ask there for its licence."
    )
    assert starting_weights(run, with_paths=True) == f"Training began from `{lost}`, {ending}"
    assert starting_weights(run) == f"Training began from weights, {ending}"


def test_a_card_of_a_fine_tuned_model_names_its_pretraining(tmp_path):
    before = tmp_path / "before"
    before.mkdir()
    config = pretrain_config()
    config.method.name = "mae"
    config.data.image_size = (64, 96)
    config.schedule.update(epochs=800.0, batch_size=4096)
    (before / "config.json").write_text(config.to_json())
    run = bundle(write_run(tmp_path / "run", before), before)
    assert starting_weights(run) == (
        "Training began from MAE (arXiv 2111.06377) of vit_b16 for 800 epochs, with a batch size of 4,096, "
        "images of 64 x 96 pixels. There, all parameters were initialised at random."
    )


def test_a_card_tells_the_pretraining_that_was_deleted(tmp_path):
    """The run, exported to a folder of ours or not, has the lineage itself; no local path is in it."""
    config = pretrain_config()
    config.method.name = "mae"
    config.data.path, config.init = "/data/secret", "/runs/secret"
    config.schedule.update(steps=100, batch_size=64)
    before = write_run(tmp_path / "before", init="/runs/secret")
    origin = {"source": "/home/secret/x.pth", "format": "mae_vit"}
    write_lineage(before, Lineage([], origin))
    own = finetune_config()
    own.model.backbone.name, own.init = "vit_b16", str(before)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(own.to_json())
    record_lineage(tmp_path / "run", LoadedRun(before, before, config, 100, 0, {}))
    shutil.rmtree(before)
    text = starting_weights(ModelBundle(own, {}, workdir=tmp_path / "run"))
    assert text.startswith(
        "Training began from MAE (arXiv 2111.06377) of vit_b16 for 100 steps, with a batch size of 64, "
        "images of 128 x 128 pixels, its checkpoint of step 100. `x.pth`, a file in the format `mae_vit`"
    )
    exported = tmp_path / "exported"
    exported.mkdir()
    write_lineage(exported, lineage_of_export(ModelBundle(own, {}, workdir=tmp_path / "run", step=7)))
    (exported / "conversion.json").write_text('{"source": "a run of fastmim_jax, step 7", "format": ""}')
    assert "secret" not in (exported / "lineage.json").read_text()
    shown = starting_weights(ModelBundle(own, {}, workdir=exported))
    assert shown.startswith("Training began from fine-tuning of vit_b16") and "Before that: MAE" in shown
    assert "`x.pth`" in shown


def test_a_bare_backbone_tells_the_run_that_it_is_of(tmp_path):
    config = pretrain_config()
    config.method.name, config.init = "mae", "/gone"
    (tmp_path / "config.json").write_text(config.to_json())
    found = bundle(tmp_path)
    card = model_card(found, "import x", "timm")
    assert "- The backbone of MAE (arXiv 2111.06377) of vit_b16 for 800 epochs, with a batch size" in card
    assert "their folder is gone" in card


def test_a_run_of_no_zoo_entry_is_described_by_its_sizes(tmp_path):
    config = pretrain_config()
    config.method.backbone.update(name="vit_b16", width=192, depth=3, heads=3)
    (tmp_path / "pre").mkdir()
    (tmp_path / "pre" / "config.json").write_text(config.to_json())
    text = starting_weights(bundle(tmp_path / "run", str(tmp_path / "pre")))
    assert "of vit with " in text and "width 192, depth 3" in text and "of vit_b16" not in text


@pytest.mark.parametrize("length", [1, 2, 5])
def test_runs_that_began_from_one_another_end(length, tmp_path, monkeypatch):
    names = [f"run{number}" for number in range(length)]
    for name, init in zip(names, [*names[1:], names[0]], strict=True):
        # One run, named in different ways.
        write_run(tmp_path / name, tmp_path / init if name == "run1" else f"{tmp_path}/./{init}/../{init}")
    found = bundle(tmp_path / "run0", tmp_path / names[1 % length])
    assert "leads back" in lineage(found).origin["problem"]
    text = starting_weights(found)
    assert text.count("a run of fastmim_jax") == length - 1
    assert text.endswith(
        "whose origin is not recorded (config.init leads back to a run that began from this one): ask "
        "there for its licence."
    )


def test_a_link_to_the_run_itself_ends(tmp_path):
    write_run(tmp_path / "a", tmp_path / "link")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert "leads back" in starting_weights(bundle(tmp_path / "a", tmp_path / "link"))


@pytest.mark.parametrize("config", ["", "[]", "{", '{"init": 3}', '{"method": 1, "init": "/no"}', "\x00"])
def test_a_damaged_ancestor_ends_the_lineage(config, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "config.json").write_text(config)
    text = starting_weights(bundle(write_run(tmp_path / "run"), tmp_path / "before"))
    assert text.startswith("Training began from ") and ("random" in text) == (config == '{"init": 3}')


def test_a_card_without_paths(tmp_path):
    run = bundle(write_run(tmp_path / "run"))
    run.config.data.path = str(tmp_path / "secret")
    run.config.init = "~/secret"
    assert "secret" in model_card(run, "import x", "timm", with_paths=True)
    card = model_card(run, "import x", "timm")
    assert "secret" not in card and str(tmp_path) not in card and '"data.path": ""' in card


@pytest.mark.parametrize(
    ("fmt", "terms"),
    [
        ("simmim_swin", "weights published in it are under MIT (microsoft/SimMIM)"),
        ("mmpretrain_vit", "weights published in it are under Apache-2.0 (open-mmlab/mmpretrain)"),
        ("torchvision_swin", "weights published in it are under BSD-3-Clause (pytorch/vision)"),
        ("timm_vit", "ask there for its licence"),
    ],
)
def test_the_licence_is_that_of_the_format(fmt, terms):
    run = bundle(origin="x.pth", format=fmt)
    assert starting_weights(run) == f"`x.pth`, a file in the format `{fmt}`: {terms}."


def test_every_licence_belongs_to_a_format():
    assert all(any(key in name for name in FORMATS) for key in LICENCES)


def test_a_card_of_a_run_has_its_length_and_last_results(tmp_path):
    lines = [{"step": 1, "loss": 2.0, "top1": 0.1}, {"step": 1500, "loss": 0.123456}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = pretrain_config()
    config.method.name = "mae"
    config.data.update(path="photos", image_size=(64, 96), channels=1, mean=(0.5,), std=(0.2,))
    config.schedule.update(steps=1, batch_size=2048)
    card = model_card(ModelBundle(config, {}, workdir=tmp_path), "import x\n", "timm", "curve.png")
    header = "library_name: timm\npipeline_tag: image-feature-extraction\ntags: [masked-image-modeling"
    assert card.startswith(f"---\n{header}")
    assert f"# {config.method.backbone.name}, MAE (arXiv 2111.06377)\n\n```python\nimport x\n```" in card
    assert "- Images of 64 x 96 pixels with 1 channel, normalised by [0.5] and [0.2].\n" in card
    assert "for 1 step, with a batch size of 2,048.\n" in card and "photos" not in card
    assert "- training loss: 0.1235 after step 1,500\n" in card
    assert "- top-1 accuracy: 0.1 after step 1\n" in card
    assert "![Loss against step](curve.png)" in card and '"method.name": "mae"' in card


def test_a_card_of_converted_weights_claims_no_training():
    card = model_card(bundle(classes=("cat", "dog"), format="timm_vit"), "import timm", "timm")
    assert "# vit_b16, 2 classes\n" in card and "- Pooling: " in card and "; 2 classes.\n" in card
    assert "not trained by it" in card and "Trained by" not in card and "![" not in card
    assert "ImageNet's mean and standard deviation" in card


def test_the_header_names_the_licence_of_the_starting_weights(tmp_path):
    converted = write_run(tmp_path / "converted", source="mae.pth", format="mae_vit")
    lost = write_run(tmp_path / "lost", tmp_path / "gone")
    runs = [bundle(), bundle(converted), bundle(write_run(tmp_path / "run", lost), lost)]
    headers = [model_card(run, "", "timm").split("---")[1] for run in runs]
    assert "license" not in headers[0]
    assert "\nlicense: cc-by-nc-4.0\n" in headers[1] and "\nlicense: unknown\n" in headers[2]
    assert "\nlicense: mit\n" in model_card(runs[2], "", "timm", licence="mit")
    assert {text.split(" (")[0] for text in LICENCES.values()} == set(LICENCE_IDS)
