"""ONNX files: outputs of onnxruntime for any batch size; files that fail the check are deleted."""

from importlib.util import find_spec

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.programs import onnx as ours
from helpers import classifiers
from helpers.sweeps import sweep

pytestmark = [pytest.mark.slow, pytest.mark.torch]

INSTALLED = all(find_spec(name) for name in ours.PACKAGES)
needs_extra = pytest.mark.skipif(not INSTALLED, reason="needs the onnx extra: pip install '.[onnx]'")


def opened(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path)


@pytest.fixture(scope="module")
def vit():
    return classifiers.classifier("vit")


@needs_extra
@pytest.mark.parametrize("family", sweep(["vit", "cmt", "convnext"], ["vit", "convnext"]))
def test_logits_of_any_number_of_images(family, tmp_path):
    model, pixels = classifiers.classifier(family), classifiers.images(8, seed=1)
    sentence = ours.write_onnx(model, tmp_path / "f.onnx")
    assert "within" in sentence and [x.name for x in tmp_path.iterdir()] == ["f.onnx"]
    session, wanted = opened(tmp_path / "f.onnx"), classifiers.logits(model, pixels)
    for batch in (1, 5, 8):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": pixels[:batch]})
        # Observed: up to 1e-5, from float32 sums in another order.
        assert np.abs(logits - wanted[:batch]).max() < 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["classes"].split("\n") == list(classifiers.CLASSES)


@needs_extra
def test_bare_backbone_gives_features(vit, tmp_path):
    params = dict(vit.variables["params"]["encoder"])
    params["norm"] = dict(scale=np.ones(32, np.float32), bias=np.zeros(32, np.float32))
    bare = ModelBundle(vit.config, {"params": {"encoder": params}})
    ours.write_onnx(bare, tmp_path / "f.onnx")
    session = opened(tmp_path / "f.onnx")
    mean, cls = session.run(["mean", "cls"], {"images": classifiers.images(2)})
    assert mean.shape == cls.shape == (2, 32)
    np.testing.assert_allclose(cls.mean(1), 0, atol=1e-5)  # normalised, without learned factors
    np.testing.assert_allclose(cls.std(1), 1, atol=1e-3)


@needs_extra
@pytest.mark.parametrize(("dtype", "white"), [("uint16", 65535), ("float32", 1)])
def test_images_of_more_than_8_bits(vit, dtype, white, tmp_path):
    config = vit.config.copy_and_resolve_references()
    config.data.update(value_range=(0, white), pixel_dtype=dtype)
    sentence = ours.write_onnx(vit._replace(config=config), tmp_path / "f.onnx")
    assert f"{dtype} images (B, 64, 64, 3)" in sentence
    pixels = classifiers.images(3)
    images = (pixels * (white / 255)).astype(dtype)
    (found,) = opened(tmp_path / "f.onnx").run(["logits"], {"images": images})
    wanted = classifiers.logits(vit, pixels)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@needs_extra
def test_a_file_with_other_values_is_deleted(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "TOLERANCE", 1e-12)
    with pytest.raises(UserError, match="differs from the model by .* and was deleted"):
        ours.write_onnx(vit, tmp_path / "f.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "PACKAGES", ("no_such_converter", "onnx", "onnxruntime"))
    with pytest.raises(
        UserError, match="needs no_such_converter, which is not installed: type pip install"
    ):
        ours.write_onnx(vit, tmp_path / "f.onnx")
    assert not list(tmp_path.iterdir())
