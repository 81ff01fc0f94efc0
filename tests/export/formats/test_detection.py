"""Folders for detectors: the published recipes, and feature pyramids that equal our features."""

import importlib.util
import json
import sys
from importlib.util import find_spec
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest

from fastmim_jax.config import finetune_config
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.convert import Options, convert, open_source
from fastmim_jax.export.extras import import_torchvision
from fastmim_jax.export.files.array_files import write_safetensors
from fastmim_jax.export.formats.detection import RECIPES, describe_recipe, pixel_statistics
from fastmim_jax.export.formats.detectron2.detector import detector_files as detectron2_files
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.names import flatten_variables, unflatten_variables
from fastmim_jax.export.formats.openmmlab.detector import detector_files as mmdet_files
from fastmim_jax.export.to_torch import dump_settings, to_torch
from fastmim_jax.models.zoo import create_model

TOLERANCE = 1e-5  # of the largest value of a level, of some 2e-6 seen
with_torch = pytest.mark.skipif(
    not (find_spec("torch") and find_spec("torchvision")),
    reason="needs the torch extra: pip install '.[torch]'",
)
SMALL = {
    "vit": dict(name="vit_b16", width=24, depth=5, heads=3, positions="learned"),
    "swin": dict(name="swin_t", width=8, depths=(1, 2, 1, 1), heads=(1, 2, 2, 4), window=2),
    "pvt_v2": dict(name="pvt_v2_b0", widths=(8, 16, 16, 32), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4)),
    "convnext": dict(name="convnext_t", widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
}
SIZE = (64, 64)


def small(family, size=SIZE, **others):
    """A small backbone with random values that all matter."""
    config = finetune_config()
    with config.model.backbone.unlocked():
        config.model.backbone.update(SMALL[family] | others)
    config.model.dtype, config.data.image_size = "float32", size
    bundle, random = ModelBundle(config, {}), np.random.default_rng(0)

    def draw(path, shape):
        x = random.standard_normal(shape).astype(np.float32)
        fan_in = np.prod(shape[:-1]) if path.endswith("kernel") else 4
        return 1 + 0.3 * x if path.endswith(("scale", "gamma")) else x / np.float32(np.sqrt(fan_in))

    shapes = flatten_variables(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), bundle.shapes()))
    values = {path: draw(path, x.shape) for path, x in shapes.items()}
    return bundle._replace(variables=unflatten_variables(values))


def export(bundle, to, folder):
    """Convert a backbone to a folder of a library, and return the lines that are printed."""
    source, lines = folder / "source.safetensors", []
    write_safetensors(source, to_torch(bundle, "timm").state, dump_settings(bundle))
    convert(source, folder / "out", Options(to=to), log=lines.append)
    return lines


def load_script(folder):
    """Import the detector.py of a folder."""
    spec = importlib.util.spec_from_file_location("detector", folder / "detector.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def features_of(bundle, images):
    variables = {name: tree["encoder"] for name, tree in bundle.variables.items()}
    return jax.jit(lambda v, x: bundle.encoder.apply(v, x, method="features"))(variables, images)


def check_levels(found, bundle, images):
    """Check that levels (B, h, w, D) equal our features."""
    expected = features_of(bundle, images)
    assert len(found) == len(expected) == 4
    for level, feature in zip(found, expected, strict=True):
        feature = np.asarray(feature)
        np.testing.assert_allclose(level, feature, rtol=0, atol=TOLERANCE * np.abs(feature).max())


def images_of(size=SIZE):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.torch
@with_torch
@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
def test_torchvision_pyramids_are_our_features(family, tmp_path, one_device):
    bundle, images = small(family), images_of()
    export(bundle, "torchvision", tmp_path)
    import_torchvision()
    import torch

    from fastmim_jax.export.formats.torchvision import detector

    script = load_script(tmp_path / "out")
    with torch.inference_mode():
        levels = script.build_pyramid()(torch.from_numpy(images).permute(0, 3, 1, 2))
        check_levels([x.permute(0, 2, 3, 1).numpy() for x in levels.values()], bundle, images)
        body = script.PyramidBackbone(script.build_pyramid())(torch.zeros(1, 3, 64, 128))
    assert [tuple(x.shape[2:]) for x in body.values()][:4] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    assert detector.CLASSES == script.CLASSES == 91
    decayed, fixed = script.parameter_groups(script.build_detector(classes=3), 0.05)
    assert decayed["weight_decay"] == 0.05 and not fixed["weight_decay"]
    assert all(x.ndim > 1 for x in decayed["params"])


@pytest.mark.slow
@pytest.mark.torch
@with_torch
@pytest.mark.parametrize("family", ["pvt_v2", "swin"])
def test_timm_pyramids_are_our_features(family, tmp_path, one_device):
    import_torchvision()
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    bundle, images = small(family), images_of()
    export(bundle, "timm", tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        grids = model.forward_intermediates(
            torch.from_numpy(images).permute(0, 3, 1, 2), norm=True, intermediates_only=True
        )
        levels = [x.permute(0, 2, 3, 1).numpy() for x in grids]
    check_levels(levels, bundle, images)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("keras_hub"), reason="needs keras_hub: pip install keras-hub")
@pytest.mark.parametrize(("family", "size"), [("vit", (64, 96)), ("vit", SIZE), ("swin", SIZE)])
def test_keras_pyramids_are_our_features(family, size, tmp_path, one_device):
    bundle, images = small(family, size), images_of(size)
    export(bundle, "keras_hub", tmp_path)
    script = load_script(tmp_path / "out")
    levels = script.build_pyramid()(images, training=False)
    check_levels([np.asarray(x) for x in levels.values()], bundle, images)
    if size == SIZE:
        detector = script.build_detector(classes=3)
        script.compile_detector(detector, RECIPES["swin"]._asdict(), steps=10, batch=2)
    else:
        with pytest.raises(ValueError, match="64 x 96 pixels, expected square"):
            script.build_detector()


@pytest.mark.torch
@with_torch
@pytest.mark.parametrize(
    ("family", "to"), [("swin", "mmdet"), ("swin", "detectron2"), ("vit", "detectron2")]
)
def test_folders_read_back_as_they_were_and_have_a_card(family, to, tmp_path):
    bundle = small(family)
    export(bundle, to, tmp_path)
    back, report = open_source(tmp_path / "out")
    assert back.format == f"{to}_{family}" and not report.load.assumptions and not report.load.missing
    ours, theirs = flatten_variables(bundle.variables), flatten_variables(back.variables)
    assert all(np.array_equal(theirs[path], x) for path, x in ours.items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert RECIPES[family].source in card and "## Detector" in card and str(tmp_path) not in card
    assert str(tmp_path) not in (tmp_path / "out" / "detector.py").read_text()


def run_config(text, monkeypatch=None):
    """Run the text of a config and return its names."""
    if monkeypatch:
        for name in ("torch", "torch.nn", "fvcore", "fvcore.common", "fvcore.common.param_scheduler"):
            monkeypatch.setitem(sys.modules, name, MagicMock())
        parts = ("", ".data", ".data.transforms", ".config", ".modeling", ".modeling.backbone", ".solver")
        for part in (*parts, ".modeling.backbone.vit"):
            monkeypatch.setitem(sys.modules, f"detectron2{part}", MagicMock())
    names = {"__file__": "/weights/detector.py"}
    exec(text, names)
    return names


def spec_of(name, size=(224, 224), **options):
    return ModelSpec(create_model(name).clone(**options), size)


def test_the_config_of_mmdet_is_fastmims():
    config = run_config(mmdet_files(spec_of("swin_b"))["detector.py"])
    backbone = config["model"]["backbone"]
    assert (backbone["embed_dims"], backbone["window_size"], backbone["drop_path_rate"]) == (128, 7, 0.2)
    assert backbone["init_cfg"]["checkpoint"] == "{{ fileDirname }}/backbone.pth"
    assert config["model"]["neck"]["in_channels"] == [128, 256, 512, 1024]
    assert config["model"]["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    assert config["optim_wrapper"]["optimizer"]["lr"] == 6e-5
    assert (
        config["param_scheduler"][1]["milestones"] == [27, 33] and config["train_cfg"]["max_epochs"] == 36
    )
    assert config["train_dataloader"]["dataset"]["pipeline"][0]["type"] == "CopyPaste"


def test_the_other_configs_of_mmdet_build_on_its_own():
    pvt = run_config(mmdet_files(spec_of("pvt_v2_b2"))["detector.py"])
    assert pvt["_base_"] == ["mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py"]
    assert pvt["model"]["neck"]["in_channels"] == [64, 128, 320, 512]
    convnext = run_config(mmdet_files(spec_of("convnext_s"))["detector.py"])
    assert convnext["custom_imports"]["imports"] == ["mmpretrain.models"]
    assert convnext["optim_wrapper"] == dict(paramwise_cfg=dict(num_layers=12))


def test_the_configs_of_detectron2_are_the_published_ones(monkeypatch):
    vit = run_config(detectron2_files(spec_of("vit_b16"))["detector.py"], monkeypatch)
    assert (vit["train"].max_iter, vit["optimizer"].lr, vit["optimizer"].weight_decay) == (
        184375,
        1e-4,
        0.1,
    )
    text = detectron2_files(spec_of("vit_b16"))["detector.py"]
    assert (
        "window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10]," in text and "milestones=[163889, 177546]" in text
    )
    assert "num_layers=12, lr_decay_rate=0.7" in text and "drop_path_rate=0.1," in text
    assert "drop_path_rate=0.4," in detectron2_files(spec_of("vit_l16"))["detector.py"]
    swin = run_config(detectron2_files(spec_of("swin_b"))["detector.py"], monkeypatch)
    assert swin["train"].init_checkpoint == "/weights/backbone.pth"
    assert (swin["train"].max_iter, swin["optimizer"].lr, swin["dataloader"].train.total_batch_size) == (
        36 * 118000 // 32,
        6e-5,
        32,
    )


@pytest.mark.parametrize(
    ("files", "spec", "message"),
    [
        (detectron2_files, spec_of("vit_b8"), "patches of 16 pixels only, not of 8"),
        (detectron2_files, spec_of("vit_b16", (224, 448)), "224 x 448 pixels .type --image_size=448"),
        (detectron2_files, spec_of("vit_b16", layer_scale=0.1), "no ViT with LayerScale"),
        (detectron2_files, spec_of("vit_b16", class_tokens=8), "no ViT with several class tokens"),
        (detectron2_files, spec_of("swin_b", positions="learned"), "position embeddings of a Swin"),
        (detectron2_files, spec_of("pvt_v2_b2"), "detectron2 has no pvt_v2: choose another library"),
        (mmdet_files, spec_of("vit_b16"), "mmdet has no vit"),
        (mmdet_files, spec_of("swin_b", (256, 512)), "square windows only"),
        (mmdet_files, spec_of("swin_b")._replace(rescaling=(1, 0)), "another range of values"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(files, spec, message):
    with pytest.raises(UserError, match=message):
        files(spec)


def test_statistics_are_of_pixels_of_8_bits():
    spec = spec_of("vit_b16")
    assert pixel_statistics(spec) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert pixel_statistics(spec._replace(mean=(0.5,) * 3, std=(0.2,) * 3))[1] == [51.0] * 3
    with pytest.raises(UserError, match="takes images of 4 channels: type a destination"):
        pixel_statistics(spec._replace(channels=4))


def test_cards_tell_the_recipe():
    text = describe_recipe(spec_of("swin_b"), "Something is new.")
    assert "learning rate 6e-05" in text and "simple copy-paste" in text and "Something is new." in text
    assert "224 x 224 pixels" in text and "layer decay 0.7" in describe_recipe(spec_of("vit_b16"))


@pytest.mark.torch
@with_torch
def test_a_head_is_refused(tmp_path):
    bundle = small("swin")
    bundle.config.model.pooling = "pool"
    classes = ModelBundle(bundle.config, {}, ("cat", "dog"))
    shapes = flatten_variables(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), classes.shapes()))
    classes = classes._replace(variables=unflatten_variables(shapes))
    source = tmp_path / "classifier.safetensors"
    write_safetensors(source, to_torch(classes, "timm").state, dump_settings(classes))
    with pytest.raises(UserError, match="has a head of 2 classes: type --encoder_only"):
        convert(source, tmp_path / "out", Options(to="torchvision"), log=lambda text: None)
    convert(source, tmp_path / "out", Options(to="torchvision", encoder_only=True), log=lambda text: None)
    notes = json.loads((tmp_path / "out" / "backbone.json").read_text())
    assert notes["backbone"]["architecture"] == "SwinTransformer" and notes["recipe"]["batch"] == 32
