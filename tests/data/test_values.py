"""Values of more than 8 bits: one range for all images, any number of bands, nothing guessed."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastmim_jax.data.decode import decode, decode_values
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.records.raw import RawImage
from fastmim_jax.data.tiff import read_header
from fastmim_jax.data.values import to_uint8

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


def rules(*value_range):
    return DecodeRules(value_range=value_range)


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
    values = np.zeros((4, 5, 3), np.float32)
    values[1, 2, 0] = value
    for file in (as_npy(values), as_tiff(values, photometric="rgb")):
        with pytest.raises(DecodeError, match="nan or infinite"):
            decode(file, 3, rules(-1, 1))


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
    assert (to_uint8(values, (0, 1)) == values).all()


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
    assert (decode(png) == 0x40).all()
    with pytest.raises(DecodeError, match="16-bit colour PNG"):
        decode(png, 3, rules(0, 4095))


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
