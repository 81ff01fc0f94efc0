"""Crops on the device against the host's, on a photo, in RGB, gray and planes; the stream of images."""

import itertools

import numpy as np
import pytest

from fastmim_jax.data import resize
from fastmim_jax.data.augment import random_crop_box, resize_crop
from fastmim_jax.data.canvas import canvas_shape, write_canvas
from fastmim_jax.data.device_crop import resize_crops, resize_crops_planes
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.planes import resize_crop_planes
from fastmim_jax.data.records.yuv import from_rgb
from fastmim_jax.data.sources import open_source
from helpers.prepared import write_records
from helpers.sweeps import sweep

CANVAS = (160, 161)
EDGES = [(0, 0, 30, 41), (110, 97, 49, 62), (0, 0, 159, 159), (31, 20, 3, 2), (0, 158, 159, 1)]


@pytest.fixture(scope="module")
def photo():
    """A bundled photo with odd sides (159, 159)."""
    return open_source("sample", "train")[0][:-1, :-1]


def boxes_of(image):
    rng = np.random.default_rng(0)
    return np.array(EDGES + [random_crop_box(rng, *image.shape[:2], (0.05, 1.0)) for _ in range(7)])


def canvases_of(image, count, layout="rgb"):
    shape = canvas_shape(layout, CANVAS, image.shape[2])
    canvas = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_canvas(image, canvas)
    return np.stack([canvas] * count)


def psnr(a, b):
    return 10 * np.log10(255**2 / (np.mean((a.astype(float) - b.astype(float)) ** 2) + 1e-9))


def library(monkeypatch, name):
    if name == "Pillow":
        monkeypatch.setattr(resize, "cykooz", None)
    elif resize.cykooz is None:
        pytest.skip("cykooz-resizer is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cykooz", "Pillow"])
@pytest.mark.parametrize(
    ("channels", "size"),
    sweep(itertools.product((1, 3), ((64, 48), (224, 192))), [(3, (64, 48)), (1, (224, 192))]),
)
def test_a_crop_is_that_of_the_host(photo, monkeypatch, name, channels, size):
    library(monkeypatch, name)
    image = photo[..., :channels]
    boxes = boxes_of(image)
    crops = np.asarray(resize_crops(canvases_of(image, len(boxes)), boxes, size))
    assert crops.shape == (len(boxes), *size, channels) and crops.dtype == np.uint8
    for crop, box in zip(crops, boxes.tolist(), strict=True):
        assert psnr(crop, resize_crop(image, tuple(box), size)) > 50, box


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cykooz", "Pillow"])
def test_planes_are_those_of_the_host(photo, monkeypatch, name):
    library(monkeypatch, name)
    image = from_rgb(photo)
    boxes = boxes_of(image)
    crops = np.asarray(resize_crops_planes(canvases_of(image, len(boxes), "yuv420"), boxes, (64, 48)))
    for crop, box in zip(crops, boxes.tolist(), strict=True):
        assert psnr(crop, resize_crop_planes(image, tuple(box), np.empty((96, 48), np.uint8))) > 50, box


def test_a_canvas_is_zero_around_an_image(photo):
    canvas = canvases_of(photo, 1)[0]
    np.testing.assert_array_equal(canvas[:159, :159], photo)
    assert canvas.shape == (160, 162, 3) and not canvas[159:].any() and not canvas[:, 159:].any()
    write_canvas(None, canvas)
    assert not canvas.any()


@pytest.mark.slow
@pytest.mark.parametrize("layout", sweep(["rgb", "yuv420"], ["yuv420"]))
def test_the_stream_has_the_boxes_of_the_host(photo, tmp_path, layout):
    """The same records, flips and boxes, for any view, however images are stored."""
    images = [np.ascontiguousarray(photo[: 150 - i, : 120 + i]) for i in range(4)]
    stored = images if layout == "rgb" else [from_rgb(image) for image in images]
    kind = "raw" if layout == "rgb" else layout
    source = open_source(str(write_records(tmp_path / "r", stored, [x.shape for x in images], kind)))
    canvas = source.manifest.max_height, source.manifest.max_width
    assert canvas == (150, 123)
    options = dict(
        image_size=(32, 48),
        channels=3,
        batch_size=8,
        seed=1,
        layout=layout,
        views_per_image=4,
        views_per_crop=2,
    )
    with make_loader(source, **options) as loader:
        host = next(loader)
    with make_loader(source, canvas=canvas, **options) as loader:
        device = next(loader)
    for name in host.keys() - {"image"}:
        np.testing.assert_array_equal(host[name], device[name])
    crop = resize_crops_planes if layout == "yuv420" else resize_crops
    crops = np.asarray(crop(device["image"], device["box"], (32, 48)))
    assert crops.shape == host["image"].shape
    assert min(psnr(*pair) for pair in zip(crops, host["image"], strict=True)) > 50
    with pytest.raises(ValueError, match="augment"):
        make_loader(source, canvas=canvas, augment=lambda crop, rng: crop, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_crops_of_more_than_8_bits_are_those_of_the_host(photo, dtype):
    white = {"uint16": 65535, "float32": 1}[dtype]
    image = (photo / 255 * white).astype(dtype)
    canvas, box = np.zeros((1, 160, 162, 3), dtype), EDGES[1]
    write_canvas(image, canvas[0])
    crop = np.asarray(resize_crops(canvas, np.array([box]), (64, 48)))[0]
    assert crop.dtype == dtype
    assert np.abs(crop / white - resize_crop(image, box, (64, 48)) / white).max() < 2e-3
