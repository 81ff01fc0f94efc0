"""Values of more than 8 bits: one range for all images, any number of bands, nothing guessed."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastmim_jax.data import resize
from fastmim_jax.data.augment import resize_crop
from fastmim_jax.data.decode import decode, decode_values
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.pillow_image import has_deep_colors
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.tiff import read_header
from fastmim_jax.data.values import ValueCounts, to_pixels

RNG = np.random.default_rng(0)
DTYPES = {
    "uint16": (0, 4095),
    "int16": (-1024, 3071),
    "int32": (-100_000, 2**30),
    "uint32": (0, 2**32 - 1),
    "float16": (-2, 2),
    "float32": (-30, 5.5),
    "float64": (-1e-3, 1e-3),
}


def rules(*value_range, **options):
    return DecodeRules(value_range=value_range, **options)


def array(dtype, low, high, shape=(7, 5)):
    """Values from a little below `low` to a little above `high`, as far as the dtype has them."""
    spread = (high - low) * 0.05
    values = RNG.uniform(low - spread, high + spread, shape)
    if np.dtype(dtype).kind != "f":
        info = np.iinfo(dtype)
        values = np.rint(values).clip(info.min, info.max)
    return values.astype(dtype)


def reference(values, low, high):
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


def as_npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def as_tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def near(found, expected):
    """Equal up to one level, where a value lies between two of them."""
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("dtype", DTYPES)
def test_declared_range(dtype, channels):
    low, high = DTYPES[dtype]
    values = array(dtype, low, high, (7, 5, channels))
    expected = reference(values, low, high)
    planes = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    options = dict(photometric="minisblack", planarconfig="contig" if channels > 1 else None)
    files = {
        "npy": as_npy(values),
        "array": values,
        "tiff": as_tiff(values, **options),
        "deflated": as_tiff(values, **options, compression="zlib"),
        "big endian": as_tiff(values, **options, byteorder=">"),
        "BigTIFF": as_tiff(values, **options, bigtiff=True),
        "big-endian BigTIFF": as_tiff(values, **options, bigtiff=True, byteorder=">"),
    }
    if channels > 1:
        files["planes"] = as_tiff(planes, photometric="minisblack", planarconfig="separate")
    for name, file in files.items():
        assert near(decode(file, channels, rules(low, high)), expected), name


def test_images_of_a_data_set_have_one_scale():
    """Reflectance that is a little above 1 in some images."""
    unit = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    files = [as_tiff(share * unit) for share in (0.5, 0.98, 1.02)]
    found = [decode(file, 1, rules(0, 1.02))[..., 0] for file in files]
    for share, pixels in zip((0.5, 0.98, 1.02), found, strict=True):
        assert near(pixels, reference(share * unit, 0, 1.02))
    assert decode(files[0], 1).max() == 128 and decode(files[1], 1).max() == 250
    with pytest.raises(
        DecodeError, match=r"from 0 to 1.02, expected \[0, 1\]: declare --config.data.value"
    ):
        decode(files[2], 1)


@pytest.mark.parametrize("bands", [5, 13])
def test_channels_are_the_bands_of_a_tiff(bands):
    values = RNG.integers(0, 65536, (6, 5, bands), np.uint16)
    file = as_tiff(values, photometric="minisblack", planarconfig="contig")
    assert (decode(file, bands) == values >> 8).all()
    assert (decode_values(file, bands) == values).all()
    with pytest.raises(DecodeError, match=f"has {bands} channels, expected 3"):
        decode(file, 3)


def test_rgb_and_infrared():
    values = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    file = as_tiff(values, photometric="rgb", planarconfig="contig", extrasamples=["unspecified"])
    assert (decode(file, 4) == values).all()


def test_12_bits_of_a_tiff():
    values = RNG.integers(0, 4096, (6, 8), np.uint16)
    wide = as_tiff(values)
    assert (decode(wide, 1)[..., 0] == values >> 8).all()  # 16 bits, whatever the values
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    header = as_tiff(np.full((6, 12), 171, np.uint8))
    file = bytearray(header.replace(b"\xab" * 72, packed.astype(np.uint8).tobytes()))
    for tag, old, new in ((256, 12, 8), (258, 8, 12)):
        for kind in (3, 4):
            before = np.array([tag, kind], "<u2").tobytes() + np.array([1, old], "<u4").tobytes()
            after = np.array([tag, kind], "<u2").tobytes() + np.array([1, new], "<u4").tobytes()
            file = file.replace(before, after)
    assert read_header(bytes(file)).bits == 12
    assert near(decode(bytes(file), 1)[..., 0], reference(values, 0, 4095))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value):
    """They become the low end of a declared range; without one the image is refused."""
    values = np.zeros((4, 5, 3), np.float32)
    values[1, 2, 0] = value
    for file in (as_npy(values), as_tiff(values, photometric="rgb")):
        counts = ValueCounts()
        pixels = decode(file, 3, rules(-1, 1), counts)
        assert pixels[1, 2, 0] == 0 and (pixels == 128).sum() == 59
        assert counts == ValueCounts(values=60, missing=1)
        with pytest.raises(DecodeError, match="nan or infinite values: declare --config.data.value_range"):
            decode(file, 3)


def test_signed_values_need_a_range():
    hounsfield = array("int16", -1024, 3071)
    for file in (as_npy(hounsfield), as_tiff(hounsfield)):
        with pytest.raises(
            DecodeError, match=r"int\d\d values, whose range is not known: declare --config"
        ):
            decode(file, 1)
    assert (decode_values(as_tiff(hounsfield), 1)[..., 0] == hounsfield).all()


def test_8_bits_are_not_scaled():
    values = RNG.integers(0, 256, (4, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    assert (decode(file.getvalue(), 3, rules(0, 4095)) == values).all()
    assert (decode(as_npy(values), 3, rules(0, 4095)) == values).all()
    assert (to_pixels(values, rules(0, 1)) == values).all()


def test_16_bit_gray_png_in_a_range():
    values = array("uint16", 0, 4095)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    assert near(decode(file.getvalue(), 1, rules(0, 4095))[..., 0], reference(values, 0, 4095))


def test_16_bit_colour_png_has_no_other_range():
    """Pillow reads its high bytes only."""
    from zlib import compress, crc32

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + crc32(kind + body).to_bytes(4, "big")

    header = (2).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = (b"\0" + b"\x40\x00" * 6) * 2
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")
    )
    assert has_deep_colors(png) and (decode(png) == 0x40).all()
    with pytest.raises(DecodeError, match="16-bit colour PNG"):
        decode(png, 3, rules(0, 4095))


@pytest.mark.parametrize("header", [b"P6 2 2 65535 ", b"P6\n# 1 1 255\n2 2\n#\n4095\n"])
def test_16_bit_colour_ppm_is_one_too(header):
    deep = header + b"\x08\x00" * 12
    assert has_deep_colors(deep) and decode(deep).shape == (2, 2, 3)
    with pytest.raises(DecodeError, match="16-bit colour PNG or PPM"):
        decode(deep, 3, rules(0, 65535))
    assert not has_deep_colors(b"P6 2 2 255 " + b"\x08" * 12)
    assert not has_deep_colors(b"P5 2 2 65535 " + b"\x08" * 8) and not has_deep_colors(b"P6" + b" " * 500)


def test_prepared_images_keep_their_range_unless_one_is_declared():
    image = RawImage(np.full((2, 2, 1), 50, np.float32), (0.0, 100.0))
    assert (decode(image, 1) == 128).all() and (decode(image, 1, rules(0, 200)) == 64).all()


def test_tiff_orientation_and_limits():
    values = RNG.integers(0, 65536, (4, 6, 5), np.uint16)
    file = as_tiff(
        values, photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, 6, True)]
    )
    assert (decode(file, 5) == np.rot90(values, -1) >> 8).all()
    with pytest.raises(DecodeError, match="6 x 4 pixels"):
        decode(file, 5, DecodeRules(max_pixels=23))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pixel_dtype", ["uint16", "float32"])
def test_pixels_of_more_than_8_bits(dtype, pixel_dtype):
    low, high = DTYPES[dtype]
    values, white = array(dtype, low, high, (7, 5, 3)), {"uint16": 65535, "float32": 1}[pixel_dtype]
    share = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    for file in (as_npy(values), as_tiff(values, photometric="minisblack", planarconfig="contig")):
        counts = ValueCounts()
        pixels = decode(file, 3, rules(low, high, dtype=pixel_dtype), counts)
        assert pixels.dtype == pixel_dtype
        assert np.abs(pixels / white - share).max() < 1e-5
        assert (counts.below, counts.above) == ((values < low).sum(), (values > high).sum())
        gray = decode(file, 1, rules(low, high, dtype=pixel_dtype)) / white
        assert np.abs(gray[..., 0] - share @ [0.299, 0.587, 0.114]).max() < 2e-5


def test_no_level_of_12_bits_is_lost():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    pixels = decode(as_tiff(values), 1, rules(0, 4095, dtype="uint16"))
    assert len(np.unique(pixels)) == 4096 and pixels.max() == 65535
    assert (decode(as_tiff(values), 1, rules(0, 65535, dtype="uint16"))[..., 0] == values).all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("where", ["key", "tag"])
def test_nodata_is_the_low_end_of_the_range(dtype, where):
    values = np.full((4, 5), 50, dtype)
    values[0, :3] = -9999
    tag = [(42113, 2, 6, "-9999 ", True)] if where == "tag" else []
    file = as_tiff(values, extratags=tag)
    chosen = rules(-100, 100, dtype="float32", nodata=(-9999,) if where == "key" else ())
    counts = ValueCounts()
    pixels = decode(file, 1, chosen, counts)
    assert (pixels[0, :3] == 0).all() and np.allclose(pixels[1:], 0.75)
    assert counts == ValueCounts(values=20, missing=3)
    assert decode_values(file, 1, chosen).min() == -100


def test_depths_are_not_mixed():
    photo, wide = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.uint16)
    eight_bits, more_bits = DecodeRules(dtype="uint8"), rules(0, 4095, dtype="uint16")
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG")
    for image in (photo, file.getvalue()):
        assert decode(image, 3, eight_bits).dtype == np.uint8
        with pytest.raises(DecodeError, match="8-bit image in a data set of values from 0 to 4095"):
            decode(image, 3, more_bits)
        full = decode(image, 3, rules(0, 65535, dtype="uint16"))  # where 65535 is as white as 255
        assert full.dtype == np.uint16
    with pytest.raises(DecodeError, match="uint16 values in a data set of 8-bit images"):
        decode(as_tiff(wide, photometric="rgb"), 3, eight_bits)


@pytest.mark.parametrize("library", ["cykooz", "pillow"])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_crops_of_more_than_8_bits(monkeypatch, library, channels):
    if library == "pillow":
        monkeypatch.setattr(resize, "cykooz", None)
    share = RNG.random((40, 30, channels), np.float32)
    box, size = (3, 5, 20, 24), (12, 10)
    expected = resize_crop((share * 255).astype(np.uint8), box, size) / 255
    for dtype, white in (("uint16", 65535), ("float32", 1)):
        crop = resize_crop((share * white).astype(dtype), box, size)
        assert crop.dtype == dtype and np.abs(crop / white - expected).max() < 0.01
        assert 0 <= crop.min() and crop.max() <= white
