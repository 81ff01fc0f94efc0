"""No converted file holds a local path, unless `--with_paths` is given."""

from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from fastmim_jax.export.convert import Options, convert
from fastmim_jax.export.private_paths import shown_source, without_paths
from fastmim_jax.train.lineage import Ancestor, Lineage, write_lineage

WORD = "wisent7431"
DENSE = ("mmdet", "mmseg")  # libraries that take bare backbones


BACKBONES = {
    "vit": dict(name="vit_b16", patch_size=16, width=16, depth=1, heads=2),
    "swin": dict(name="swin_t", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Runs of small classifiers by family, in folders and on data whose names have WORD."""

    def make(family):
        side = 64 if family == "vit" else 224  # where all windows of a Swin are of one size
        config, folder = finetune_config(), tmp_path_factory.mktemp(WORD) / "run"
        with config.model.backbone.unlocked():
            config.model.backbone.update(BACKBONES[family])
        config.model.update(dtype="float32", pooling="cls" if family == "vit" else "norm_pool")
        config.data.update(path=f"/data/{WORD}", eval_path=f"~/{WORD}", image_size=(side, side))
        config.init = f"runs/{WORD}"
        bundle = ModelBundle(config, {}, ("cat", "dog"))
        variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), bundle.shapes())
        write_workdir(bundle._replace(variables=variables), folder, {})
        (folder / "conversion.json").unlink()
        before = pretrain_config()
        before.data.path, before.init = f"/data/{WORD}", f"~/{WORD}"
        write_lineage(folder, Lineage([Ancestor(before.to_dict(), 7)], {"source": f"/runs/{WORD}"}))
        return folder

    return cache(make)


def content(path):
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    files += [path.with_name(f"{path.name}.json")] if path.is_file() else []
    return b"".join(x.read_bytes() for x in files if x.exists())


VIT = [
    ("again", ""),
    ("m.safetensors", ""),
    ("timm", "timm"),
    ("hf", "hf"),
    ("tv.safetensors", "torchvision"),
    ("mm.safetensors", "mmpretrain"),
    ("seg.safetensors", "mmseg"),
    pytest.param("m.pth", "", marks=pytest.mark.torch),
    pytest.param("mm.pth", "mmpretrain", marks=pytest.mark.torch),
    pytest.param("m.stablehlo", "stablehlo", marks=pytest.mark.slow),
    pytest.param("m.onnx", "onnx", marks=[pytest.mark.slow, pytest.mark.torch]),
]
SWIN = [
    ("timm", "timm"),
    ("hf", "hf"),
    pytest.param("det.pth", "mmdet", marks=pytest.mark.torch),
    pytest.param("seg.pth", "mmseg", marks=pytest.mark.torch),
    pytest.param("mm.pth", "mmpretrain", marks=pytest.mark.torch),
    pytest.param("tv.pth", "torchvision", marks=pytest.mark.torch),
]


def check(source, destination, to):
    if destination.suffix == ".pth":
        pytest.importorskip("torch")
    if to == "onnx":
        pytest.importorskip("jax2onnx")
    convert(source, destination, Options(to=to, encoder_only=to in DENSE), log=lambda text: None)
    found, package = content(destination), Path(__file__).parents[2]
    assert found
    for secret in (WORD, f"{Path.home()}/", str(package), str(source.parent), str(destination.parent)):
        assert secret.encode() not in found, secret


@pytest.mark.parametrize(("name", "to"), VIT)
def test_no_local_path_leaves(workdir, tmp_path, name, to):
    check(workdir("vit"), tmp_path / name, to)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "to"), SWIN)
def test_no_local_path_leaves_with_a_pyramid(workdir, tmp_path, name, to):
    check(workdir("swin"), tmp_path / name, to)


def test_paths_are_there_if_they_are_asked_for(workdir, tmp_path):
    convert(workdir("vit"), tmp_path / "again", Options(with_paths=True), log=lambda text: None)
    for name in ("config.json", "conversion.json", "lineage.json"):
        assert WORD.encode() in (tmp_path / "again" / name).read_bytes()


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
