"""A single image file as a data set."""

import pickle

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.sources import open_source
from fastmim_jax.data.sources.image_file import FileSource
from fastmim_jax.errors import UserError


def test_one_file(tmp_path):
    path = tmp_path / "one.PNG"
    Image.new("RGB", (4, 4)).save(path)
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
