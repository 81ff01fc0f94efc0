"""Folders of a library: weights, description and card; and the settings read from them."""

import json

import numpy as np
import pytest

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.files.array_files import read_tensors
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.model_folder import WEIGHTS, describe, read_settings, spec_of, write_folder
from fastmim_jax.export.to_torch import TorchArrays


def classifier(workdir=None, pooling="pool_norm"):
    config = finetune_config()
    config.model.backbone.update(name="vit_s16")
    config.model.pooling = pooling
    config.data.update(image_size=(32, 48), mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3))
    return ModelBundle(config, {}, classes=("cat", "dog"), workdir=workdir)


def test_a_model_is_described_without_its_arrays():
    spec = spec_of(classifier(), FORMATS["timm_vit"])
    assert spec.encoder.width == 384 and spec.image_size == (32, 48) and spec.channels == 3
    assert (spec.pooling, spec.classes, spec.mae) == ("pool_norm", ("cat", "dog"), None)
    assert spec.mean == (0.5, 0.5, 0.5) and spec.std == (0.1, 0.2, 0.3)


def test_only_formats_of_mae_describe_the_decoder():
    config = pretrain_config()
    config.method.update(name="mae", mask_ratio=0.6, normalize_target=False)
    config.method.decoder.width = 96
    bundle = ModelBundle(config, {})
    mae = spec_of(bundle, FORMATS["hf_vit_mae"]).mae
    assert mae.decoder["width"] == 96 and (mae.mask_ratio, mae.normalize_target) == (0.6, False)
    assert spec_of(bundle, FORMATS["hf_vit_model"]).mae is None


@pytest.mark.parametrize(
    ("fmt", "library", "pooling"),
    [("timm_vit", "timm", "pool_norm"), ("hf_vit", "transformers", "cls")],
)
def test_a_folder_holds_weights_description_and_card(tmp_path, fmt, library, pooling):
    workdir = tmp_path / "run"
    (workdir / "pictures").mkdir(parents=True)
    (workdir / "pictures" / "curve.png").write_bytes(b"picture")
    bundle, folder = classifier(workdir, pooling), tmp_path / "out" / "model.part"
    arrays = TorchArrays(FORMATS[fmt], {"head.weight": np.ones((2, 3), np.float32)}, [])
    code = write_folder(bundle, arrays, folder, tmp_path / "out" / "model")
    np.testing.assert_array_equal(read_tensors(folder / WEIGHTS).arrays["head.weight"], np.ones((2, 3)))
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        json.dumps(describe(bundle, FORMATS[fmt]))
    )
    card = (folder / "README.md").read_text()
    assert f"library_name: {library}\n" in card and "(curve.png)" in card
    assert str(tmp_path) not in card and code.strip().replace(f"{tmp_path}/out/", "") in card
    assert str(tmp_path / "out" / "model") in code and "model.part" not in code
    assert (folder / "curve.png").read_bytes() == b"picture"
    assert read_settings(folder)["image_size"] == (32, 48)


def test_folders_of_no_library_have_no_settings(tmp_path):
    assert read_settings(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"init": ""}')
    assert read_settings(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json cannot be read \("),
        ("[1]", r"config.json cannot be read \(it holds a JSON list\)"),
    ],
)
def test_broken_descriptions_are_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"{message}.* expected the config.json of a model"):
        read_settings(tmp_path)
