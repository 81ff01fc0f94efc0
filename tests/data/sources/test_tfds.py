"""TFDS data sets: reading, pickling and error messages."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import evaluation_split, labelled, open_source, split_names
from fastmim_jax.data.sources.tfds import TFDSSource
from fastmim_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of six one-colour PNGs, prepared as ArrayRecord without TensorFlow."""
    root = tmp_path_factory.mktemp("tfds")

    class Colours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "file_name": tfds.features.Text(),
                "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "kind": tfds.features.ClassLabel(names=["dark", "light"]),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(4)), "val": self._generate_examples([5])}

        def _generate_examples(self, numbers):
            for i in numbers:
                picture = Image.new("RGB", (8, 6), (i, 0, 0))
                yield i, {"file_name": f"c/{i}.png", "picture": picture, "kind": i % 2}

    Colours(data_dir=root, file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
    return root / "colours"


def test_tfds_directory(prepared):
    source = open_source(prepared)
    assert isinstance(source, TFDSSource) and len(source) == 4
    assert repr(source) == repr(open_source(prepared / "1.2.0"))
    assert source.classes == ("dark", "light")
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source)
    for i in range(4):
        number = int(source.name(i).partition(".png")[0].removeprefix("c/"))
        with open_png(source[i]) as image:
            assert image.size == (8, 6) and image.getpixel((0, 0)) == (number, 0, 0)
        assert source.label(i) == copy.label(i) == number % 2  # read before, and not read before
        assert copy[i] == source[i]
    assert len(open_source(prepared, "val")) == 1
    assert len(open_source(prepared, "train[:50%]")) == 2


def test_labels_and_splits_of_tfds(prepared, monkeypatch):
    assert split_names(prepared) == ("train", "val") and evaluation_split(prepared) == "val"
    with pytest.raises(UserError, match="TFDS has no data set called 'nonesuch'"):
        evaluation_split("tfds:nonesuch")
    source = open_source(prepared)
    assert labelled(source) is source
    for name, value, message in [
        ("_labels", np.full(4, -1), "The split 'train' of the TFDS data set .* comes without labels"),
        ("classes", ("dark",), "has a single class; expected at least 2"),
        ("_label", None, "has no label feature; expected a feature of type"),
    ]:
        monkeypatch.setattr(source, name, value)
        with pytest.raises(UserError, match=message):
            labelled(source)


def open_png(data):
    assert data[:4] == b"\x89PNG"  # as stored, not decoded
    return Image.open(io.BytesIO(data))


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(UserError, match="no split 'tran'; expected one of train, val"):
        open_source(prepared, "tran")
    with pytest.raises(UserError, match="TFDS has no data set called 'nonesuch'"):
        open_source("tfds:nonesuch")
    with pytest.raises(UserError, match="mnist is not prepared in .*prepare it with .*array_record"):
        open_source(f"tfds:mnist:{tmp_path}")
    broken = tmp_path / "1.0.0"
    broken.mkdir()
    (broken / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a TFDS data set"):
        open_source(tmp_path)
    second = tmp_path / "2.0.0"
    second.mkdir()
    (second / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="2 versions .*1.0.0, 2.0.0"):
        open_source(tmp_path)


def test_tfds_without_random_access(prepared, tmp_path):
    info = (prepared / "1.2.0" / "dataset_info.json").read_text()
    (tmp_path / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    for name in ("features.json", "kind.labels.txt"):
        text = (prepared / "1.2.0" / name).read_text()
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="stored as tfrecord.*prepare it with"):
        open_source(tmp_path)


def test_tfds_without_images(tmp_path):
    class Words(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"word": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"word": "a"}

    Words(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(UserError, match="no image feature, only word"):
        open_source(tmp_path / "words")
