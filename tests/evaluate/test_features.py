"""Files of features: their columns, and that none is left half-written."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from fastmim_jax.data.augment import center_crop
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate import features
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.features import write_features
from helpers import small
from helpers.commands import refused
from helpers.labelled_images import COLOURS, write_splits
from helpers.stages import untrained

pytestmark = pytest.mark.slow

LAYERS = ("block 1 mean", "block 2 cls")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("images"), train=4, test=6)


@pytest.fixture(scope="module")
def source(folder):
    return open_source(str(folder), "test")


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    config = small.config(folder, batch_size=8, steps=2)
    return untrained(config, tmp_path_factory.mktemp("run"), step=2)


@pytest.fixture(scope="module")
def npz(workdir, source, tmp_path_factory):
    """The file, the log, and the numbers of images done."""
    out, messages, done = tmp_path_factory.mktemp("out") / "new" / "f.npz", [], []
    write_features(
        workdir, source, out, layers=LAYERS, batch_size=8, log=messages.append, progress=done.append
    )
    return dict(np.load(out)), messages, done


def test_names_and_labels(npz, source):
    found, *_ = npz
    assert set(found) == {"name", "label", "classes", "block_1_mean", "block_2_cls"}
    assert found["classes"].tolist() == sorted(COLOURS)
    readable = [i for i in range(len(source)) if "broken" not in source.name(i)]
    assert found["name"].tolist() == [source.name(i) for i in readable] and len(readable) == 18
    assert all(f"/{found['classes'][k]}/" in n for n, k in zip(found["name"], found["label"], strict=True))


def test_features_equal_the_outputs_of_the_encoder(npz, workdir):
    found, *_ = npz
    _, backbone = open_backbone(workdir)
    mean, std = backbone.reader.mean, backbone.reader.std
    crops = [center_crop(np.asarray(Image.open(name)), (32, 32)) for name in found["name"]]
    images = (np.stack(crops) / 255 - np.array(mean)) / np.array(std)
    outputs = backbone.model.apply(backbone.variables, jnp.asarray(images, jnp.float32), method="outputs")
    # float32, summed in another order than in the jitted program over 8 devices.
    np.testing.assert_allclose(found["block_1_mean"], outputs[0][0].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["block_2_cls"], outputs[1][1][:, 0], atol=1e-5)
    assert found["block_1_mean"].dtype == np.float32 and found["block_1_mean"].std(0).min() > 1e-4


def test_images_that_cannot_be_decoded_are_left_out_and_counted(npz):
    _, messages, done = npz
    assert messages[-1].endswith("18 images, block 1 mean 32 wide, block 2 cls 32 wide; "
                             "1 could not be decoded: left out")  # fmt: skip
    assert done == [8, 16, 19]


def test_parquet_holds_the_same(npz, workdir, source, tmp_path):
    write_features(
        workdir, source, tmp_path / "f.parquet", layers=LAYERS, batch_size=8, log=lambda line: None
    )
    found, table = npz[0], parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["name", "label", "class", "block_1_mean", "block_2_cls"]
    for name in ("name", "label"):
        assert table[name].to_pylist() == found[name].tolist()
    assert table["class"].to_pylist() == found["classes"][found["label"]].tolist()
    for name in ("block_1_mean", "block_2_cls"):
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), np.float32), found[name])


def test_without_labels_and_layers(workdir, folder, tmp_path):
    image = open_source(str(folder / "test" / "red" / "00.png"))
    for out in ("one.npz", "one.parquet"):
        write_features(workdir, image, tmp_path / out, batch_size=8, log=lambda line: None)
    found = np.load(tmp_path / "one.npz")
    assert set(found) == {"name", "label", "classes", "block_2_mean", "block_2_cls"}
    assert found["label"].tolist() == [-1] and found["block_2_mean"].shape == (1, 32)
    assert parquet.read_table(tmp_path / "one.parquet")["class"].to_pylist() == [None]


@pytest.mark.parametrize("out", ["f.npz", "f.parquet"])
def test_an_interruption_leaves_the_old_file(monkeypatch, workdir, source, tmp_path, out):
    (tmp_path / out).write_bytes(b"old")

    def interrupted(*args, **_):
        file = next(x for x in args if hasattr(x, "write") or hasattr(x, "write_bytes"))
        file.write(b"half") if hasattr(file, "write") else file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "_is_features", lambda path: True)
    monkeypatch.setattr(np, "savez", interrupted)
    monkeypatch.setattr(parquet, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_features(workdir, source, tmp_path / out, batch_size=8, log=lambda line: None)
    assert (tmp_path / out).read_bytes() == b"old"


def test_unusable_inputs_are_refused(capsys, monkeypatch, workdir, folder, source, tmp_path):
    words = ["features", f"--workdir={workdir}", f"--images={folder}"]
    message = refused(capsys, *words, f"--out={tmp_path / 'f.csv'}")
    assert "neither .npz nor .parquet" in message
    message = refused(capsys, *words, f"--out={tmp_path / 'f.npz'}", "--layers=block 3 mean")
    assert "no layer 'block 3 mean'; choose from: block 1 mean, block 1 cls" in message
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow.*f.npz"):
        write_features(tmp_path / "no run is looked for", source, tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())
