"""Crops of planes against crops in RGB, and their conversion on the device against the host."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data import resize
from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.device import channel_statistics, normalize, normalize_planes, planes_to_rgb
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.planes import crop_shape, crop_to_rgb, fits_planes, resize_crop_planes, unpack_planes
from fastmim_jax.data.records.yuv import Yuv420, from_rgb, to_rgb
from fastmim_jax.data.sources import open_source
from helpers.sweeps import sweep


@pytest.fixture(scope="module")
def photos():
    """Three bundled photos as planes; one has odd sides."""
    source = open_source("sample", "train")
    images = [np.asarray(Image.fromarray(source[i])) for i in range(3)]
    return [from_rgb(image) for image in (images[0][:-1, :-1], *images[1:])]


class Planes:
    """A source of planes."""

    classes = ()

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]

    def label(self, index):
        return index

    def name(self, index):
        return str(index)


def psnr(a, b):
    return 10 * np.log10(255**2 / (np.mean((a.astype(float) - b.astype(float)) ** 2) + 1e-9))


@pytest.mark.parametrize("library", ["cykooz", "Pillow"])
def test_a_crop_of_planes_is_close_to_the_crop_in_rgb(photos, monkeypatch, library):
    if library == "Pillow":
        monkeypatch.setattr(resize, "cykooz", None)
    elif resize.cykooz is None:
        pytest.skip("cykooz-resizer is not installed")
    rng = np.random.default_rng(0)
    for image in photos:
        for _ in range(4):
            box = random_crop_box(rng, *image.shape[:2])
            packed = resize_crop_planes(image, box, np.empty(crop_shape("yuv420", (64, 48), 3), np.uint8))
            assert psnr(crop_to_rgb(packed), resize_crop(to_rgb(image), box, (64, 48))) > 32


def test_luma_outside_the_box_has_no_influence(photos):
    image, box = photos[1], (31, 20, 41, 50)
    crop = resize_crop_planes(image, box, np.empty((48, 32), np.uint8))
    other = Yuv420(np.full_like(image.y, 255), image.u, image.v)
    other.y[20:70, 31:72] = image.y[20:70, 31:72]
    np.testing.assert_array_equal(crop, resize_crop_planes(other, box, np.empty((48, 32), np.uint8)))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), sweep([(2, 2), (6, 10), (8, 4)], [(6, 10)]))
def test_the_device_converts_as_the_host(height, width):
    """Of 3 H / 2 rows, where H / 2 is odd too."""
    size = (height, width)
    planes = np.random.default_rng(0).integers(0, 256, (5, *crop_shape("yuv420", size, 3)), np.uint8)
    rgb = np.asarray(planes_to_rgb(planes))
    assert rgb.shape == (5, *size, 3)
    for row, packed in zip(rgb, planes, strict=True):
        assert np.abs(row - to_rgb(unpack_planes(packed)).astype(float)).max() <= 1
    flip, statistics = np.arange(5) % 2 == 0, channel_statistics(3)
    on_device = normalize_planes(planes, flip, *statistics)
    on_host = normalize(np.stack([crop_to_rgb(packed) for packed in planes]), flip, *statistics)
    assert np.abs(on_device - on_host).max() <= 1.001 / 255 / min(statistics[1])


@pytest.mark.slow
def test_the_stream_of_planes_is_that_of_rgb(photos):
    """The same records, boxes and flips in either layout; undecodable records are replaced."""
    options = dict(image_size=(32, 48), channels=3, batch_size=6, seed=1)
    with make_loader(Planes(photos), layout="yuv420", **options) as loader:
        planes = next(loader)
    with make_loader(Planes(photos), **options) as loader:
        rgb = next(loader)
    assert planes["image"].shape == (6, 48, 48) and rgb["image"].shape == (6, 32, 48, 3)
    for name in planes.keys() - {"image"}:
        np.testing.assert_array_equal(planes[name], rgb[name])
    for packed, image in zip(planes["image"], rgb["image"], strict=True):
        assert psnr(crop_to_rgb(packed), image) > 32


@pytest.mark.skipif(resize.cykooz is None, reason="cykooz-resizer is not installed")
def test_a_plane_is_resized_as_the_library_does_in_one_call():
    rng, library = np.random.default_rng(0), resize._Cykooz.of_thread()
    for height, width, rows, columns in rng.integers(1, 90, (60, 4)).tolist():
        plane, kind = rng.integers(0, 256, (height, width, 1), np.uint8), resize.cykooz.PixelType.U8
        target = resize.cykooz.ImageData(columns, rows, kind)
        source = resize.cykooz.ImageData(width, height, kind, plane.tobytes())
        library.resizer.resize(source, target, library._options)
        found = resize.resample(plane, (0, 0, width, height), np.empty((rows, columns, 1), np.uint8))
        assert found.tobytes() == target.get_buffer()


def test_only_even_sizes_fit():
    assert fits_planes((6, 10)) and not fits_planes((6, 9)) and not fits_planes((7, 10))
