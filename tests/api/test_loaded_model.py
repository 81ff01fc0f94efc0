"""A loaded model: its features, predictions, reconstructions and exports."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import fastmim_jax
from fastmim_jax.api.loaded_model import Model
from fastmim_jax.api.results import ImageFeatures
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from helpers import labelled_images, small


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, one_device):
    """A tiny MAE that was not trained, as a work directory."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = small.mae(small.config())
    bundle = ModelBundle(config, {})
    variables = small.variables_of(
        bundle.network(), {"params": jax.random.key(0), "mask": jax.random.key(0)}, np.zeros((1, 32, 32, 3))
    )
    write_workdir(bundle._replace(variables=variables), folder, {"source": "a test"})
    return folder


@pytest.fixture(scope="module")
def model(pretrained):
    return fastmim_jax.load(pretrained, batch_size=16)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (100, 40, 36, 3), dtype=np.uint8)


@pytest.mark.slow
def test_features_of_100_images_take_one_compilation(model, pixels):
    traced = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda name, *_, **__: traced.append(name) if "backend_compile" in name else None
    )
    try:
        features = model.features(pixels, pool=("mean", "cls", "patches"))
        model.features(pixels[:90], pool=("mean", "cls", "patches"))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert isinstance(features, ImageFeatures) and len(features) == 100 and len(traced) == 1
    assert features.pooled.shape == (100, 32) and features.cls.shape == (100, 32)
    assert features.patches.shape == (100, 4, 4, 32) and features.names[99] == "image 99"
    np.testing.assert_allclose(features.pooled, features.patches.mean((1, 2)), atol=1e-5)
    assert features.labels.tolist() == [-1] * 100 and not features.undecodable
    assert set(features.arrays) == {"block 2 mean", "block 2 cls", "block 2 patches"}


@pytest.mark.slow
def test_features_do_not_depend_on_the_form_nor_on_the_batch(model, pixels, tmp_path):
    for index in range(5):
        Image.fromarray(pixels[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    of_arrays = model.features(pixels)
    of_folder = model.features(tmp_path)
    assert [name.endswith("broken.png") for name in of_folder.undecodable] == [True]
    assert len(of_folder) == 5
    np.testing.assert_allclose(of_folder.pooled, of_arrays.pooled[:5], atol=1e-5)
    one = model.features(Image.fromarray(pixels[3]), layer=["block 1", -1])
    np.testing.assert_allclose(one.pooled[0], of_arrays.pooled[3], atol=1e-5)
    assert list(one.arrays) == ["block 1 mean", "block 2 mean"]


@pytest.mark.slow
def test_what_a_model_does_not_have(model, pixels):
    with pytest.raises(UserError, match="no layer 'block 3'; did you mean block"):
        model.features(pixels, layer="block 3")
    with pytest.raises(UserError, match="no pool 'max'; choose from: mean, cls, patches"):
        model.features(pixels, pool="max")
    with pytest.raises(UserError, match=r"call features\(images, pool='patches'\)"):
        _ = model.features(pixels[:2]).patches
    with pytest.raises(UserError, match=r"has no classes to predict: call fastmim_jax.finetune"):
        model.predict(pixels)
    with pytest.raises(UserError, match="nowhere does not exist"):
        fastmim_jax.load("nowhere")


@pytest.mark.slow
def test_reconstructions_are_arrays_and_a_picture(model, pixels, tmp_path):
    found = model.reconstruct(pixels, count=3)
    assert len(found) == 3 and found.images.shape == (3, 32, 32, 3)
    assert found.mask.shape == (3, 4, 4) and found.mask.sum() == 3 * 12 and np.isfinite(found.loss)
    assert found.prediction.shape == found.target.shape == (3, 4, 4, 192)
    assert Image.open(found.save(tmp_path / "picture.png")).width > 100


@pytest.mark.slow
def test_a_saved_model_opens_again(model, pixels, tmp_path, capsys):
    model.save(tmp_path / "mae.safetensors")
    again = fastmim_jax.load(tmp_path / "mae.safetensors", batch_size=16)
    assert isinstance(again, Model) and "mae" in repr(again)
    np.testing.assert_allclose(again.features(pixels).pooled, model.features(pixels).pooled, atol=1e-5)
    model.save(tmp_path / "timm", to="timm")
    assert (tmp_path / "timm" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_classifier_predicts_names(tmp_path, one_device):
    root = labelled_images.write_images(tmp_path / "images", each=2)
    config = labelled_images.tuning_config(root)
    run = labelled_images.untrained(config, tmp_path / "run", 6, ("blue", "green", "red"))
    model = fastmim_jax.load(run)
    found = model.predict(root)
    assert model.classes == ("blue", "green", "red") and len(found) == 6
    assert set(found.best) <= set(model.classes) and found.classes.shape == (6, 3)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.true[::2].tolist() == list(model.classes)
    right = [
        best == path.parent.name for best, path in zip(found.best, map(Path, found.names), strict=True)
    ]
    assert found.accuracy == np.mean(right)
    without = model.predict(Image.open(found.names[0]))
    assert without.true.tolist() == [""]
    with pytest.raises(UserError, match="no classes to compare the predictions with"):
        without.accuracy  # noqa: B018
