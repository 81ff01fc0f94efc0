"""Folders, the sample and TFDS: what they list, how they pickle, what they say when it fails."""

import importlib.util
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data import sources
from fastmim_jax.data.sources import FileSource, FolderSource, SampleSource, TFDSSource, open_source, sample
from fastmim_jax.errors import UserError


def put(path, colour=(1, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.zeros((4, 4, 3), np.uint8))
    else:
        Image.new("RGB", (4, 4), colour).save(path, path.suffix.lower().replace("jpg", "jpeg")[1:])
    return path


def names(source):
    return [os.path.relpath(source.name(i), source.path) for i in range(len(source))]


def test_importing_reads_no_jax_and_no_tfds():
    modules = "sources, sample, tfds_source, decode, augment, bad, workers"
    code = f"import sys; from fastmim_jax.data import {modules}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert not loaded & {"jax", "tensorflow", "tensorflow_datasets", "skimage", "torch"}


def test_flat_folder(tmp_path):
    for name in ("b.JPG", "a.png", "c.jpeg", "d.webp", "e.bmp", "f.npy", ".hidden.png"):
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "LICENSE").write_text("no image")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert names(source) == ["a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.npy"]
    assert source.classes == () and source.label(0) == -1 and source.ignored == 2
    assert source[0] == (tmp_path / "a.png").read_bytes()
    assert source.name(-1).endswith("f.npy")
    with pytest.raises(IndexError):
        source.name(6)


def test_class_folders(tmp_path):
    for name in ("dog/x/2.png", "dog/1.png", "cat/z.png", "cat/.cache/no.png", ".git/no.png"):
        put(tmp_path / name)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "alone.png")
    source = FolderSource(tmp_path)
    assert names(source) == ["alone.png", "cat/z.png", "dog/1.png", "dog/x/2.png"]
    assert source.classes == ("cat", "dog")
    assert [source.label(i) for i in range(4)] == [-1, 0, 1, 1]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b/1.png", "a/2.png", "a/10.png", "a-b/3.png", "c.png"):
        put(tmp_path / name)
    expected = names(FolderSource(tmp_path))
    assert expected == sorted(expected)
    listing, scandir = [], os.scandir

    class Backwards:
        def __init__(self, folder):
            self.entries = sorted(scandir(folder), key=lambda e: e.name, reverse=True)
            listing.append(folder)

        __enter__ = lambda self: self.entries  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setattr(os, "scandir", Backwards)
    assert names(FolderSource(tmp_path)) == expected and listing


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    put(root / "real" / "2.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "back").symlink_to(root)
    assert names(FolderSource(root)) == ["linked/1.png", "real/2.png"]


def test_odd_file_names(tmp_path):
    for name in ("line\nbreak.png", "ünï.png", "a: b.png"):
        put(tmp_path / name)
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(raw, "wb") as file:
        file.write(b"bytes")
    source = pickle.loads(pickle.dumps(FolderSource(tmp_path)))
    assert len(source) == 4 and b"bytes" in [source[i] for i in range(4)]


def test_pickle_and_repr_are_stable(tmp_path):
    for i in range(5):
        put(tmp_path / f"class{i % 2}" / f"{i}.png", (i, 0, 0))
    source = FolderSource(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert repr(copy) == repr(source) == f"FolderSource('{tmp_path}', 5 images, 2 classes)"
    for i in range(5):
        same = copy[i], copy.name(i), copy.label(i)
        assert same == (source[i], source.name(i), source.label(i))


def test_split_folders_are_entered(tmp_path):
    put(tmp_path / "train" / "cat" / "1.png")
    put(tmp_path / "val" / "cat" / "2.png")
    assert names(open_source(tmp_path)) == ["cat/1.png"]
    assert open_source(tmp_path).classes == ("cat",)
    assert names(open_source(tmp_path, "val")) == ["cat/2.png"]
    with pytest.raises(UserError, match="'test' was asked .* holds train, val"):
        open_source(tmp_path, "test")
    put(tmp_path / "plane" / "3.png")  # now "train" is the class of railway pictures
    assert open_source(tmp_path).classes == ("plane", "train", "val")
    with pytest.raises(UserError, match="not divided into splits"):
        open_source(tmp_path, "val")


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match=r"nope does not exist \(nor its parent"):
        open_source(tmp_path / "gone" / "nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty; expected images"):
        open_source(tmp_path / "empty")
    for name in ("notes.txt", "png"):
        (tmp_path / name).write_text("no image")
        with pytest.raises(UserError, match=f"{name} is a file; expected a folder of images"):
            open_source(tmp_path / name)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.txt", "b.txt", "c.zip", "README"):
        (other / name).write_text("")
    with pytest.raises(UserError, match="4 other files .2 .txt.*1 without extension"):
        open_source(other)


def test_one_file(tmp_path):
    path = put(tmp_path / "one.PNG")
    source = pickle.loads(pickle.dumps(open_source(path)))
    assert isinstance(source, FileSource) and len(source) == 1 and source.classes == ()
    assert source[0] == source[-1] == path.read_bytes()
    assert source.name(np.int64(0)) == str(path) and source.label(0) == -1
    assert repr(source) == f"FileSource('{path}')"
    for method in (source.__getitem__, source.name, source.label):
        with pytest.raises(IndexError):
            method(1)
    with pytest.raises(UserError, match="'val' was asked for, but .*one.PNG is a single image"):
        open_source(path, "val")


def test_no_permission(tmp_path, monkeypatch):
    put(tmp_path / "a" / "1.png")

    def refuse(folder):  # chmod does not stop root
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="No permission to read the folder .*chmod"):
        open_source(tmp_path)


# The sample


def test_sample_records():
    train, test = open_source("sample"), open_source("sample", "test")
    assert (len(train), len(test)) == (4096, 512) and len(train.classes) == 12
    image = train[7]
    assert image.shape == (160, 160, 3) and image.dtype == np.uint8 and image.std() > 1
    assert {train.label(i) for i in range(24)} == set(range(12))
    copy = pickle.loads(pickle.dumps(train))
    assert repr(copy) == repr(train) and (copy[7] == image).all()
    assert not np.array_equal(train[0], train[12])  # the same photo, another square
    assert train.name(0) != test.name(0)
    with pytest.raises(IndexError):
        train[4096]


def test_sample_splits_share_no_pixel():
    used = {}
    for split in ("train", "test"):
        source = SampleSource(split)
        for i in range(len(source)):
            left, top, side = source.square(i)
            key = source.classes[source.label(i)], split
            assert top >= 0 and 96 <= side <= 256
            used.setdefault(key, []).append((left, left + side, top + side))
    for name in sample.PHOTOS:
        title = name.partition(".")[0]
        with Image.open(os.path.join(SampleSource()._folder, name)) as photo:
            width, height = photo.size
        train, test = np.array(used[title, "train"]), np.array(used[title, "test"])
        assert train[:, 0].min() >= 0 and train[:, 1].max() <= test[:, 0].min()
        assert test[:, 1].max() <= width and max(train[:, 2].max(), test[:, 2].max()) <= height
        # All of the photo is used: the border between the two lies at 70 %.
        assert train[:, 1].max() > 0.65 * width and test[:, 0].min() < 0.75 * width


def test_sample_squares_hold_only_their_own_pixels(monkeypatch):
    """Painting everything right of the border leaves the train records as they were."""
    source = SampleSource("train")
    before = [source[i] for i in range(24)]
    original = sample._photo

    def painted(path):
        photo = original(path).copy()
        photo[:, int(photo.shape[1] * 0.7) :] = 255
        return photo

    monkeypatch.setattr(sample, "_photo", painted)
    assert all((source[i] == before[i]).all() for i in range(24))


def test_sample_errors(monkeypatch):
    with pytest.raises(UserError, match="no split 'val'; expected one of train, test"):
        open_source("sample", "val")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        open_source("sample")


# TFDS

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
    assert sources.split_names(prepared) == ("train", "val") and sources.evaluation_split(prepared) == "val"
    with pytest.raises(UserError, match="TFDS knows no data set called 'nonesuch'"):
        sources.evaluation_split("tfds:nonesuch")
    source = open_source(prepared)
    assert sources.labelled(source) is source
    for name, value, message in [
        ("_labels", np.full(4, -1), "The split 'train' of the TFDS data set .* comes without labels"),
        ("classes", ("dark",), "has a single class; expected two"),
        ("_label", None, "has no label feature; expected a feature of type"),
    ]:
        monkeypatch.setattr(source, name, value)
        with pytest.raises(UserError, match=message):
            sources.labelled(source)


def open_png(data):
    assert data[:4] == b"\x89PNG"  # as stored, not decoded
    return Image.open(io.BytesIO(data))


def test_tfds_errors(prepared, tmp_path):
    with pytest.raises(UserError, match="no split 'tran'; expected one of train, val"):
        open_source(prepared, "tran")
    with pytest.raises(UserError, match="TFDS knows no data set called 'nonesuch'"):
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
