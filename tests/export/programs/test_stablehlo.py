"""Functions in a file: their outputs for any batch size, in a process without this package."""

import json
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.export.bundle import ModelBundle, open_bundle, write_workdir
from fastmim_jax.export.programs import stablehlo
from fastmim_jax.export.programs.stablehlo import write_function
from fastmim_jax.train.inference import open_classifier
from helpers import classifiers, small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

# float32 sums in another order, which XLA chooses by the batch size.
CLOSE = dict(rtol=1e-5, atol=1e-5)
READER = """
import sys
import jax, numpy as np
function = jax.export.deserialize(open(sys.argv[1], "rb").read())
images = np.load(sys.argv[2])
found = {f"{name} {b}": x for b in (1, 3, 8) for name, x in function.call(images[:b]).items()}
np.savez(sys.argv[3], **found)
assert not {"flax", "fastmim_jax"} & set(sys.modules)
"""


def opened(path):
    return jax.export.deserialize(path.read_bytes())


@pytest.fixture(scope="module")
def vit():
    return classifiers.classifier("vit")


@pytest.fixture(scope="module")
def written(vit, tmp_path_factory):
    """(path, sentence) of a model whose run was trained with kernels that few platforms have."""
    model = vit._replace(config=vit.config.copy_and_resolve_references())
    model.config.model.update(dtype="bfloat16", kernel="cudnn", remat="full", layers="scanned")
    path = tmp_path_factory.mktemp("out") / "new" / "vit.stablehlo"
    sentence = write_function(model, path)
    assert model.config.model.kernel == "cudnn"
    return path, sentence


def test_a_process_without_this_package_gets_the_logits_of_the_model(vit, written, tmp_path):
    pixels = classifiers.images(8)
    np.save(tmp_path / "in.npy", pixels)
    names = [str(written[0]), str(tmp_path / "in.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", READER, *names], check=True, cwd=tmp_path)
    found, wanted = np.load(names[2]), classifiers.logits(vit, pixels)
    assert wanted.std(0).min() > 1e-3  # the outputs depend on the images
    for batch in (1, 3, 8):
        logits, probabilities = found[f"logits {batch}"], found[f"probabilities {batch}"]
        assert logits.dtype == probabilities.dtype == np.float32
        np.testing.assert_allclose(logits, wanted[:batch], **CLOSE)
        shares = np.exp(wanted[:batch]) / np.exp(wanted[:batch]).sum(1, keepdims=True)
        np.testing.assert_allclose(probabilities, shares, **CLOSE)


def test_the_file_beside_it_describes_inputs_and_outputs(written):
    path, sentence = written
    description = json.loads((path.parent / "vit.stablehlo.json").read_text())
    assert sorted(x.name for x in path.parent.iterdir()) == ["vit.stablehlo", "vit.stablehlo.json"]
    assert description["classes"] == list(classifiers.CLASSES) and description["image_size"] == [64, 64]
    assert description["input"]["shape"] == ["b", 64, 64, 3] and description["input"]["dtype"] == "uint8"
    assert description["normalized_inside"]["mean"] == list(classifiers.MEAN)
    assert {name: x["shape"] for name, x in description["outputs"].items()} == {
        "logits": ["b", 3],
        "probabilities": ["b", 3],
    }
    assert description["platforms"] == ["cpu", "cuda", "tpu"] == list(opened(path).platforms)
    assert "MiB" in sentence and "logits, probabilities" in sentence


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", sweep(["swin", "cmt"], ["swin"]))
def test_other_families(family, tmp_path):
    model, pixels = classifiers.classifier(family), classifiers.images(3)
    write_function(model, tmp_path / "f")
    found, wanted = opened(tmp_path / "f").call(pixels)["logits"], classifiers.logits(model, pixels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_a_fine_tuned_run_gives_the_probabilities_of_evaluation(vit, tmp_path):
    write_workdir(vit, tmp_path / "run", {})
    write_function(open_bundle(tmp_path / "run"), tmp_path / "f", platforms=("cpu",))
    pixels, rows = classifiers.images(8), np.zeros(8, np.int32)
    _, stage = open_classifier(tmp_path / "run")
    predictions = stage.classify(
        stage.variables, dict(image=pixels, label=rows, index=rows, valid=rows == 0, undecodable=rows == 1)
    )
    found = np.asarray(opened(tmp_path / "f").call(pixels)["probabilities"])
    np.testing.assert_allclose(
        np.take_along_axis(found, np.asarray(predictions["best"]), 1), predictions["probability"], **CLOSE
    )


def test_a_pretrained_run_gives_features(tmp_path):
    model = ModelBundle(small.config(), {})
    random, (width, height, _) = np.random.default_rng(0), model.image_shape
    drawn = jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(x.dtype), model.shapes())
    write_workdir(model._replace(variables=drawn), tmp_path / "run", {})
    write_function(open_bundle(tmp_path / "run"), tmp_path / "f", platforms=("cpu",))
    description = json.loads((tmp_path / "f.json").read_text())
    assert description["classes"] is None and list(description["outputs"]) == ["mean", "cls"]
    _, frozen = open_backbone(tmp_path / "run")
    pixels = random.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    found = opened(tmp_path / "f").call(pixels)
    tokens = np.asarray(jax.jit(partial(frozen.tokens, layer="block 2"))(frozen.variables, pixels))
    np.testing.assert_allclose(found["cls"], tokens[:, 0], **CLOSE)
    np.testing.assert_allclose(found["mean"], tokens[:, 1:].mean(1), **CLOSE)


def test_refusals_leave_nothing(vit, written, tmp_path, monkeypatch):
    params = {name: x for name, x in vit.variables["params"]["encoder"].items() if name != "norm"}
    bare = ModelBundle(vit.config, {"params": {"encoder": params}}, (), "some file")

    def refused(match, model=vit, path=tmp_path / "f", **options):
        with pytest.raises(UserError, match=match):
            write_function(model, path, **options)

    refused("unknown platform 'gpu'; choose from: cpu, cuda, tpu, rocm", platforms=("gpu",))
    refused("no platform given", platforms=())
    refused("vit.stablehlo exists already", path=written[0], platforms=("cpu",))
    refused("backbone of some file has no final norm", model=bare)
    monkeypatch.setattr(stablehlo, "MAX_GIB", 1e-5)
    refused("a file of a function holds at most 1e-05")
    assert not list(tmp_path.iterdir())
