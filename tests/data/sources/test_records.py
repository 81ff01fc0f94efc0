"""Prepared data sets, opened."""

import io
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.decode import DecodeError, decode, read_image
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.records.yuv import Yuv420, from_rgb
from fastmim_jax.data.sources import Source, labelled, open_source, split_names
from fastmim_jax.data.sources.records import RecordsSource
from fastmim_jax.errors import UserError
from helpers.prepared import write_records

SHAPES = [(8 + i, 12 - i, 3) for i in range(5)]
IMAGES = [np.full(shape, 40 * i, np.uint8) for i, shape in enumerate(SHAPES)]


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module", params=["jpeg", "yuv420", "raw"])
def path(request, tmp_path_factory):
    convert = {"jpeg": jpeg, "yuv420": from_rgb, "raw": lambda image: image}[request.param]
    root = tmp_path_factory.mktemp(request.param) / "data"
    return write_records(root, [convert(image) for image in IMAGES], SHAPES, request.param)


def test_every_record_is_there_in_order(path):
    source = open_source(path)
    assert isinstance(source, RecordsSource) and isinstance(source, Source)
    assert len(source) == 5 and source.layout == path.parent.name[:-1]
    for i, image in enumerate(IMAGES):
        decoded = read_image(source, i)
        assert decoded.shape == image.shape and abs(decoded.astype(int) - image).max() <= 2
        assert source.label(i) == i % 2 and source.name(i) == f"b/image{i}"
    kinds = {"jpeg": bytes, "yuv420": Yuv420, "raw": np.ndarray}
    assert isinstance(source[-1], kinds[source.layout])
    with pytest.raises(IndexError):
        source[5]


def test_luma_of_one_channel(path):
    luma = read_image(open_source(path), 3, channels=1)
    assert luma.shape == (*SHAPES[3][:2], 1) and abs(luma.astype(int) - 120).max() <= 2


def test_facts_and_labels(path):
    source = labelled(open_source(path))
    assert source.classes == ("a", "b") and split_names(path) == ("train",)
    assert (source.manifest.max_height, source.manifest.max_width) == (12, 12)
    assert source.facts.records_per_class == {"a": 3, "b": 2}
    assert "5 " in repr(source) and source.layout in repr(source)


def test_a_copy_in_a_worker_reads_the_same(path):
    source = open_source(path)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(read_image(copy, 4), read_image(source, 4)) and copy.name(4) == source.name(4)


def test_arrays_with_a_range_become_8_bits(tmp_path):
    images = [np.linspace(-1, 3, 24, dtype=np.float32).reshape(2, 3, 4)] * 2
    shapes = [image.shape for image in images]
    write_records(tmp_path / "x", images, shapes, "raw", value_range=(-1.0, 3.0), dtype="float32")
    source = open_source(tmp_path / "x")
    assert isinstance(source[0], RawImage) and np.array_equal(source[0].values, images[0])
    assert np.array_equal(
        read_image(source, 1, channels=4).ravel(), np.rint(np.linspace(0, 255, 24)).astype(np.uint8)
    )
    with pytest.raises(DecodeError, match="4 channels, expected 3"):
        decode(source[0])


def test_natural_ranges_give_plain_arrays(tmp_path):
    images = [np.full((2, 2, 1), 513, np.uint16)]
    write_records(tmp_path / "x", images, [(2, 2, 1)], "raw", (0.0, 65535.0), "uint16", shards=1)
    assert np.array_equal(read_image(open_source(tmp_path / "x"), 0, 1), np.full((2, 2, 1), 2))


def test_sentences(path, tmp_path):
    with pytest.raises(UserError, match="has no split 'val'; expected one of train"):
        open_source(path, "val")
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    (copy / "train" / "00001-of-00002.array_record").unlink()
    (copy / "train" / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"lacks 2 of its files \(train/00001-of-00002"):
        open_source(copy)
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(UserError, match="records of version 9, expected 1"):
        open_source(copy)
    (tmp_path / "begun" / ".unfinished").mkdir(parents=True)
    (tmp_path / "begun" / ".unfinished" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="has not ended: rerun the same"):
        open_source(tmp_path / "begun")


def test_a_foreign_manifest_does_not_match(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "manifest.json").write_text('{"kind": "something else"}')
    assert open_source(tmp_path).name(0).endswith("a.png")
