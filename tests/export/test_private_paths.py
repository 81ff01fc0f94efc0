"""No converted file holds a local path, unless `--with_paths` is given."""

from pathlib import Path

import jax
import numpy as np
import pytest

from fastmim_jax.config import finetune_config
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from fastmim_jax.export.convert import Options, convert
from fastmim_jax.export.private_paths import shown_source, without_paths

WORD = "wisent7431"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a small classifier, in a folder and on data whose names have WORD."""
    config, folder = finetune_config(), tmp_path_factory.mktemp(WORD) / "run"
    config.model.backbone.update(name="vit_b16", patch_size=16, width=16, depth=1, heads=2)
    config.model.update(dtype="float32", pooling="cls")
    config.data.update(path=f"/data/{WORD}", eval_path=f"~/{WORD}", image_size=(32, 32))
    config.init = f"runs/{WORD}"
    bundle = ModelBundle(config, {}, ("cat", "dog"))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), bundle.shapes())
    write_workdir(bundle._replace(variables=variables), folder, {})
    (folder / "conversion.json").unlink()
    return folder


def content(path):
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    files += [path.with_name(f"{path.name}.json")] if path.is_file() else []
    return b"".join(x.read_bytes() for x in files if x.exists())


DESTINATIONS = [
    ("again", ""),
    ("m.safetensors", ""),
    ("timm", "timm"),
    ("hf", "hf"),
    ("tv.safetensors", "torchvision"),
    ("mm.safetensors", "mmpretrain"),
    pytest.param("m.pth", "", marks=pytest.mark.torch),
    pytest.param("m.stablehlo", "stablehlo", marks=pytest.mark.slow),
    pytest.param("m.onnx", "onnx", marks=[pytest.mark.slow, pytest.mark.torch]),
]


@pytest.mark.parametrize(("name", "to"), DESTINATIONS)
def test_no_local_path_leaves(workdir, tmp_path, name, to):
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    if to == "onnx":
        pytest.importorskip("jax2onnx")
    convert(workdir, tmp_path / name, Options(to=to), log=lambda text: None)
    found = content(tmp_path / name)
    package = Path(__file__).parents[2]
    for secret in (WORD, f"{Path.home()}/", str(package), str(workdir.parent), str(tmp_path)):
        assert secret.encode() not in found, secret


def test_paths_are_there_if_they_are_asked_for(workdir, tmp_path):
    convert(workdir, tmp_path / "again", Options(with_paths=True), log=lambda text: None)
    assert WORD.encode() in (tmp_path / "again" / "config.json").read_bytes()
    assert WORD.encode() in (tmp_path / "again" / "conversion.json").read_bytes()


def test_every_path_of_a_config_is_left_out():
    config = finetune_config()
    config.data.update(path="photos", split="train")
    config.init = "gs://bucket/run"
    cleaned = without_paths(config)
    assert (cleaned.data.path, cleaned.init, cleaned.data.split) == ("", "", "train")
    assert config.data.path == "photos" and cleaned.data.image_size == config.data.image_size


def test_sources_are_named_without_their_folders(tmp_path):
    (tmp_path / "mae.pth").touch()
    assert shown_source(tmp_path / "mae.pth") == "mae.pth" and shown_source(tmp_path) == "a folder"
    assert shown_source("x", "/a/b/checkpoints/10, step 1,000") == "a run of fastmim_jax, step 1,000"
