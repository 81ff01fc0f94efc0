"""Records survive as bytes."""

import numpy as np
import pytest

from fastmim_jax.data.records.record import pack, unpack
from fastmim_jax.data.records.yuv import from_rgb


def image_of(dtype, shape, seed=0):
    values = np.random.default_rng(seed).random(shape) * (1 if dtype == "float32" else 255)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_raw_images_keep_every_bit(dtype, channels):
    image = image_of(dtype, (5, 7, channels))
    record = unpack(pack(image, image.shape, -1, "a/ü.npy"))
    assert record[:4] == ("raw", (5, 7, channels), -1, "a/ü.npy")
    assert record.image.dtype == dtype and np.array_equal(record.image, image)


def test_arrays_are_aligned_views_of_the_record():
    packed = pack(image_of("float32", (4, 4, 2)), (4, 4, 2), 1, "x" * 21)
    image = unpack(packed).image
    assert np.shares_memory(image, np.frombuffer(packed, np.uint8)) and image.flags.aligned


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1)])
def test_planes_keep_every_bit(size):
    image = from_rgb(image_of("uint8", (*size, 3)))
    record = unpack(pack(image, image.shape, 4, "name"))
    assert record[:4] == ("yuv420", (*size, 3), 4, "name")
    for plane in ("y", "u", "v"):
        assert np.array_equal(getattr(record.image, plane), getattr(image, plane))


def test_jpeg_bytes_and_names_that_are_not_utf8_stay():
    record = unpack(
        pack(b"\xff\xd8 and so on", (2, 3, 3), 0, b"\xff\xfe.jpg".decode("utf-8", "surrogateescape"))
    )
    assert (
        record.image == b"\xff\xd8 and so on" and record.name.encode("utf-8", "surrogateescape")[0] == 255
    )


def test_other_bytes_are_refused():
    with pytest.raises(ValueError, match="not a record"):
        unpack(b"\xff\xd8 a JPEG file is not a record")
    with pytest.raises(ValueError, match="expected"):
        unpack(pack(from_rgb(image_of("uint8", (4, 4, 3))), (4, 4, 3), 0, "")[:-1])
