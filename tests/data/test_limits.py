"""Limits of decoding: pixels, bytes per pixel, scans, and files that never end."""

import io
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.decode import decode
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.sources import open_source

SMALL = DecodeRules(max_pixels=60 * 40)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP"])
def test_pixels(kind):
    assert decode(encode(noise(60, 40), kind), rules=SMALL).shape == (40, 60, 3)
    with pytest.raises(DecodeError, match=r"61 x 40 pixels, more than 2,400 \(--config.data.max_pixels"):
        decode(encode(noise(61, 40), kind), rules=SMALL)


def test_formats_that_need_more_memory_have_fewer_pixels():
    webp = encode(noise(60, 40), "WEBP")
    wide = encode(Image.fromarray(np.zeros((40, 60), np.float32)), "TIFF")
    for data, limit in ((webp, "960"), (wide, "1,600")):
        assert decode(data).shape == (40, 60, 3)
        with pytest.raises(DecodeError, match=f"more than {limit}"):
            decode(data, rules=SMALL)


def test_npy():
    file = io.BytesIO()
    np.save(file, np.zeros((40, 61, 3), np.uint8))
    with pytest.raises(DecodeError, match="61 x 40 pixels"):
        decode(file.getvalue(), rules=SMALL)


def test_a_jpeg_too_short_for_its_size():
    data = bytearray(encode(noise(64, 64), "JPEG", quality=50))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\x1f\x40\x1f\x40"  # 8,000 x 8,000
    with pytest.raises(DecodeError, match="truncated: .* bytes for 8,000 x 8,000 pixels"):
        decode(bytes(data))


def test_a_jpeg_of_many_scans():
    data = encode(noise(60, 40), "JPEG", progressive=True)
    rules = DecodeRules(max_pixels=60 * 40 * 2)
    assert decode(data, rules=rules).shape == (40, 60, 3)
    start = data.rindex(b"\xff\xda")
    again = data[:start] + data[start:-2] * 30 + data[-2:]
    with pytest.raises(DecodeError, match="scans, which is too many"):
        decode(again, rules=rules)


def test_strips_are_converted_as_the_whole(monkeypatch):
    monkeypatch.setattr("fastmim_jax.data.decode._STRIP", 300)
    rgba = noise(37, 41).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.arange(37, dtype=np.uint8) * 6, (41, 1))))
    palette = noise(37, 41).quantize(16)
    images = [rgba, palette, rgba.convert("LA"), noise(37, 41).convert("CMYK")]
    files = [encode(image, "TIFF") for image in images] + [encode(palette, "PNG", transparency=3)]
    for channels in (1, 3):
        strips = [decode(file, channels) for file in files]
        with monkeypatch.context() as whole:
            whole.setattr("fastmim_jax.data.decode._STRIP", 10**9)
            assert all(
                (decode(file, channels) == found).all() for file, found in zip(files, strips, strict=True)
            )
    assert (decode(encode(rgba, "PNG"), 4) == np.asarray(rgba)).all()


def test_memory_of_a_header_is_not_allocated():
    """A file of a few hundred bytes that claims a billion pixels."""
    files = []
    png = bytearray(encode(Image.new("RGB", (8, 8)), "PNG"))
    png[16:24] = (40_000).to_bytes(4, "big") * 2
    files.append(bytes(png))
    gif = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = (65_000).to_bytes(2, "little") * 2
    files.append(bytes(gif))
    tracemalloc.start()
    try:
        for data in files:
            with pytest.raises(DecodeError):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_fifos_and_devices_are_skipped_and_told(tmp_path):
    noise(8, 8).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    source = open_source(tmp_path)
    assert len(source) == 1 and "FIFO, socket or device: 2 (" in source.notices[0]


def test_a_file_that_became_a_fifo(tmp_path):
    noise(8, 8).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="expected a file"):
        source[0]


@pytest.mark.parametrize("seed", range(2))
def test_mutated_images_end_in_an_image_or_a_reason(seed):
    rng = np.random.default_rng(seed)
    kinds = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
    for kind in kinds:
        whole = np.frombuffer(encode(noise(40, 30), kind), np.uint8)
        for _ in range(5):
            data = whole.copy()
            where = rng.integers(0, min(len(data), 600), 4)
            data[where] = rng.integers(0, 256, 4)
            try:
                image = decode(data.tobytes())
            except DecodeError as error:
                assert error.reason
            else:
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
