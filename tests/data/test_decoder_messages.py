"""Messages about damaged files carry the name of the file, and are not printed by libraries."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data import decoder_messages
from fastmim_jax.data.decode import decode, read_image
from fastmim_jax.data.decoder_messages import name_messages
from fastmim_jax.data.eval_batches import make_eval_batches
from fastmim_jax.data.limits import DecodeError
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.data.undecodable import UndecodableRecords


def damaged(seed, compression):
    """A TIFF file with bytes of its pixels changed."""
    random, file = np.random.default_rng(seed), io.BytesIO()
    pixels = np.kron(random.integers(0, 2, (8, 8)), np.ones((8, 8))).astype(bool)
    image = Image.fromarray(pixels)
    image.save(file, "TIFF", compression=compression)
    data = bytearray(file.getvalue())
    data[8:24] = random.integers(0, 256, 16, np.uint8).tobytes()
    return bytes(data)


@pytest.fixture
def lines(monkeypatch, caplog):
    monkeypatch.setattr(decoder_messages, "_PRINTED", decoder_messages._Printed())
    monkeypatch.setattr(logging.getLogger("fastmim_jax"), "propagate", True)
    name_messages()
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_damaged_image_that_is_read_is_named_once(tmp_path, lines, capfd):
    (tmp_path / "fax.tif").write_bytes(damaged(0, "group4"))
    source = FolderSource(tmp_path)
    for _ in range(2):
        assert read_image(source, 0).shape == (64, 64, 3)
    (line,) = lines()
    assert line.startswith(f"{tmp_path}/fax.tif: read, perhaps damaged: libtiff: Bad code word at line ")
    assert capfd.readouterr().err == ""


def test_an_image_that_is_not_read_has_its_reason(lines, capfd):
    with pytest.raises(DecodeError):
        decode(damaged(0, "tiff_adobe_deflate"))
    assert lines() == [] and capfd.readouterr().err == ""


def test_many_damaged_images_are_not_all_named(tmp_path, lines):
    for number in range(8):
        (tmp_path / f"{number}.tif").write_bytes(damaged(0, "group4"))
    source = FolderSource(tmp_path)
    for number in range(8):
        read_image(source, number)
    assert [line.partition(":")[0][-5:] for line in lines()[:-1]] == [f"{n}.tif" for n in range(5)]
    assert lines()[-1] == "further images that are read with such messages are not named"


def test_images_that_are_read_with_messages_are_counted(tmp_path, lines):
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(damaged(0, "group4"))
    for number in range(3, 8):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
    source, found = FolderSource(tmp_path), UndecodableRecords(range(8), 0.5)
    options = dict(image_size=(8, 8), channels=3, batch_size=4, threads=1)
    with make_loader(source, seed=0, **options) as loader:
        for _ in range(4):  # every image twice
            assert found.update(next(loader)) == []
    assert found.summary() == "every record was decoded; 3 images were read in part, or may be damaged"
    with make_eval_batches(source, **options) as batches:
        assert sum(int(batch["doubtful"].sum()) for batch in batches) == 3
