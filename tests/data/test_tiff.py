"""TIFF files as instruments write them: pages, channels in pages, and white that is 0."""

import io
import logging

import numpy as np
import pytest
import tifffile

from fastmim_jax.data.decode import decode, read_values
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.tiff import read_header

RANDOM = np.random.default_rng(0)
RULES = DecodeRules(value_range=(0, 4095), dtype="uint16")


def tiff(*pages, **options):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=options.pop("bigtiff", False)) as writer:
        for page in pages:
            writer.write(page, **options)
    return file.getvalue()


def levels(*shape):
    return RANDOM.integers(0, 4096, shape).astype(np.uint16)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_are_bands_where_so_many_channels_are_asked_for(bigtiff):
    pages = levels(5, 8, 6)
    values, _ = read_values(tiff(*pages, bigtiff=bigtiff, contiguous=False, metadata=None), 5, RULES)
    np.testing.assert_array_equal(values, np.moveaxis(pages, 0, -1))


def test_pages_that_are_described_as_channels_are_bands():
    pages, file = levels(3, 8, 6), io.BytesIO()
    tifffile.imwrite(file, pages, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    values, _ = read_values(file.getvalue(), 3, RULES)
    np.testing.assert_array_equal(values, np.moveaxis(pages, 0, -1))


def test_further_pages_are_told(caplog):
    data = tiff(*levels(3, 8, 6), contiguous=False, metadata=None)
    with caplog.at_level(logging.WARNING, "fastmim_jax.data"):
        image = decode(data, 1, RULES)
    assert image.shape == (8, 6, 1)
    assert "the first of its 3 pages alone" in caplog.text
    with pytest.raises(DecodeError, match="has 1 channels, expected 2"):
        decode(data, 2, RULES)


def test_a_thumbnail_is_no_page():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(levels(16, 16), metadata=None)
        writer.write(levels(8, 8), metadata=None, subfiletype=1)
    assert read_header(file.getvalue()).pages == 1


def test_white_that_is_0_is_white_at_any_depth():
    values = levels(8, 6)
    data = tiff(values, photometric="miniswhite")
    found, _ = read_values(data, 1, RULES)
    np.testing.assert_array_equal(found[..., 0], 65535 - values)
    eight = (values >> 4).astype(np.uint8)
    np.testing.assert_array_equal(decode(tiff(eight, photometric="miniswhite"), 1)[..., 0], 255 - eight)


def test_directories_that_lead_back_end():
    data = bytearray(tiff(levels(8, 6), metadata=None))
    start = int.from_bytes(data[4:8], "little")
    number = int.from_bytes(data[start : start + 2], "little")
    end = start + 2 + 12 * number
    data[end : end + 4] = start.to_bytes(4, "little")
    assert read_header(bytes(data)).pages == 2


def test_transparency_of_16_bits_is_refused_by_its_channels():
    data = tiff(levels(8, 6, 4), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(DecodeError, match="has 4 channels, expected 3"):
        decode(data, 3)
