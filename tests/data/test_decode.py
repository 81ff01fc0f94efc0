"""Unusual files are decoded as an image viewer shows them, unusable ones raise DecodeError."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastmim_jax.data import decode as module
from fastmim_jax.data.decode import DecodeError, decode, read_image
from fastmim_jax.data.limits import DecodeRules
from helpers.sweeps import thin

RED, BLUE = (200, 30, 40), (20, 60, 220)


@pytest.fixture(params=["simplejpeg", "Pillow"], autouse=True)
def decoder(request, monkeypatch):
    """Run every test with simplejpeg and without."""
    if request.param == "Pillow":
        monkeypatch.setattr(module, "simplejpeg", None)
    elif module.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quadrants(size=(48, 32)):
    """Four colours, so that all flips and rotations differ."""
    image = Image.new("RGB", size, RED)
    w, h = size[0] // 2, size[1] // 2
    for box, colour in [((w, 0), BLUE), ((0, h), (10, 180, 20)), ((w, h), (250, 240, 10))]:
        image.paste(colour, (*box, box[0] + w, box[1] + h))
    return image


def photo(size=64):
    """Smooth noise, which compresses to a JPEG of realistic size."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def near(pixels, colour, by=4):
    return np.abs(pixels.astype(int) - np.asarray(colour)).max() <= by


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_rgb_in_each_format(kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    options = {"lossless": True} if kind == "WEBP" else options
    pixels = decode(encode(quadrants(), kind, **options))
    assert pixels.shape == (32, 48, 3) and pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert near(pixels[4, 4], RED) and near(pixels[4, 40], BLUE)
    gray = decode(encode(quadrants(), kind, **options), channels=1)
    assert gray.shape == (32, 48, 1)
    assert near(gray[4, 4], 0.299 * 200 + 0.587 * 30 + 0.114 * 40)


def test_fast_path_is_taken(decoder):
    expected = "simplejpeg" if decoder == "simplejpeg" else "Pillow"
    assert module.decoder_name().startswith(expected)


def test_progressive_and_gray_jpeg():
    assert near(decode(encode(quadrants(), "JPEG", progressive=True, quality=95))[4, 4], RED, 6)
    gray = decode(encode(Image.new("L", (20, 10), 77), "JPEG"))
    assert gray.shape == (10, 20, 3) and near(gray, 77, 1)


def test_palette():
    pixels = decode(encode(quadrants().quantize(16)))
    assert near(pixels[4, 4], RED) and near(pixels[4, 40], BLUE)


def test_palette_with_transparency():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    pixels = decode(encode(image, transparency=0))
    assert near(pixels[0, 0], 255, 0) and near(pixels[0, 1], BLUE, 0)


def test_alpha_over_white():
    image = Image.new("RGBA", (3, 2), (*RED, 255))
    image.putpixel((0, 0), (*RED, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    pixels = decode(encode(image))
    assert near(pixels[0, 0], 255, 0) and near(pixels[0, 1], 127, 1) and near(pixels[1, 2], RED, 0)
    gray_alpha = decode(encode(Image.new("LA", (2, 2), (60, 0))), channels=1)
    assert near(gray_alpha, 255, 0)
    keyed = decode(encode(Image.new("RGB", (2, 2), RED), transparency=RED))
    assert near(keyed, 255, 0)


def test_cmyk_jpeg_and_tiff():
    image = Image.new("CMYK", (16, 16), (0, 200, 100, 20))  # Pillow writes JPEG inverted, as Adobe
    assert b"Adobe" in encode(image, "JPEG")
    expected = [255 * (1 - c / 255) * (1 - 20 / 255) for c in (0, 200, 100)]
    assert near(decode(encode(image, "JPEG", quality=95)), expected, 3)
    assert near(decode(encode(image, "TIFF")), expected, 2)


def test_16_bit_gray_is_scaled_not_clipped():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(Image.fromarray(ramp), kind))
        assert (pixels == np.arange(256).reshape(16, 16, 1)).all()


def test_integer_and_float_tiff():
    wide = encode(Image.fromarray(np.array([[-1000, 3000], [1000, 9000]], np.int32)), "TIFF")
    with pytest.raises(
        DecodeError, match="int32 values, whose range is not known: declare --config.data.va"
    ):
        decode(wide)
    pixels = decode(wide, 1, DecodeRules(value_range=(-1000, 3000)))[..., 0]
    assert (pixels == [[0, 255], [128, 255]]).all()
    share = np.array([[0.0, 1.0], [0.5, 0.25]], np.float32)
    pixels = decode(encode(Image.fromarray(share), "TIFF"), channels=1)[..., 0]
    assert (pixels == [[0, 255], [128, 64]]).all()


def test_one_bit():
    image = Image.new("1", (4, 4), 0)
    image.putpixel((2, 1), 1)
    pixels = decode(encode(image))
    assert pixels[1, 2].tolist() == [255] * 3 and pixels.sum() == 3 * 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", thin(range(1, 9), 3))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(quadrants(), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    pixels = decode(data)
    assert pixels.shape == expected.shape
    assert near(pixels, expected, 2)
    assert orientation == 1 or not np.array_equal(pixels, np.asarray(quadrants()))


def test_pixels_are_read_despite_broken_exif():
    data = encode(quadrants(), "JPEG", quality=95)
    segment = b"Exif\0\0" + b"\xff" * 20
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert near(decode(data)[4, 4], RED)


def test_extreme_sizes():
    assert decode(encode(Image.new("RGB", (1, 1), RED), "JPEG", quality=95)).shape == (1, 1, 3)
    assert decode(encode(Image.new("RGB", (12000, 40), RED), "JPEG")).shape == (40, 12000, 3)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated(kind, keep):
    data = encode(photo(), kind)
    with pytest.raises(DecodeError):
        decode(data[: int(len(data) * keep)])


@pytest.mark.parametrize("cut", [2, 20])
def test_jpeg_without_its_last_bytes(cut):
    with pytest.raises(DecodeError):
        decode(encode(photo(), "JPEG")[:-cut])


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "starts with '<!DOCTYPE"),
        (b"\xff\xd8\xff\xe0 and then nothing of a JPEG", ""),
        (bytes(range(200)), "no image format"),
        (b"\x93NUMPY\x01\x00", ""),
    ],
)
def test_not_images(data, reason):
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert reason in caught.value.reason and 0 < len(caught.value.reason) <= 130


def test_decompression_bomb():
    bomb = bytearray(encode(photo(), "JPEG"))
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels, 12 GB
    with pytest.raises(DecodeError, match="pixels"):
        decode(bytes(bomb))


def test_other_channel_counts_must_match():
    rgba = Image.new("RGBA", (5, 4), (1, 2, 3, 4))
    assert decode(encode(rgba), channels=4)[0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(DecodeError, match="has 3 channels, expected 13"):
        decode(encode(quadrants()), channels=13)


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_npy():
    bands = np.random.default_rng(0).integers(0, 65536, (6, 5, 13), np.uint16)
    assert (decode(as_npy(bands), channels=13) == bands // 256).all()
    assert (decode(bands, channels=13) == bands // 256).all()
    with pytest.raises(DecodeError, match="has 13 channels, expected 3"):
        decode(as_npy(bands))
    share = np.full((4, 4, 3), 0.5, np.float32)
    assert (decode(as_npy(share)) == 128).all()
    assert decode(as_npy(np.zeros((4, 7), np.uint8))).shape == (4, 7, 3)
    colour = np.broadcast_to(np.uint8(RED), (4, 4, 3))
    assert near(decode(as_npy(colour), channels=1), 0.299 * 200 + 0.587 * 30 + 0.114 * 40, 1)


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 1.5), "1.5"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((2, 2, 2, 2), np.uint8), "shape"),
        (np.array([{"code": 1}], dtype=object), "allow_pickle"),
    ],
)
def test_npy_files_that_are_not_images(array, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(as_npy(array))


def test_pickles_are_never_loaded():
    data = as_npy(np.array([[print]], object))
    with pytest.raises(DecodeError, match="allow_pickle"):
        decode(data)


def test_a_record_that_cannot_be_read(tmp_path):
    class MissingFile:
        def __getitem__(self, index):
            return open(tmp_path / "gone.jpg", "rb")

    with pytest.raises(DecodeError, match="cannot be read: No such file"):
        read_image(MissingFile(), 0)
