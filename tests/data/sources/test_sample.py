"""The sample: twelve photos, two splits that share no pixel."""

import importlib.util
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import SampleSource, open_source, sample
from fastmim_jax.errors import UserError


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


@pytest.mark.slow
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
    """Painting the part of the test split leaves the train records unchanged."""
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
