"""Kinds of images: those of the installed Pillow, written by it and read back."""

import io

import numpy as np
import pytest
from PIL import Image, features

from fastmim_jax.data import image_formats
from fastmim_jax.data.decode import DecodeError, decode
from fastmim_jax.data.image_formats import (
    describe_extensions,
    formats,
    image_extensions,
    is_heif,
    plausible_tga,
)
from fastmim_jax.data.sources import open_source

RED, BLUE = (200, 30, 40), (20, 60, 220)


def halves(mode="RGB"):
    """Red above blue, 32 x 16 pixels."""
    image = Image.new("RGB", (32, 32), RED)
    image.paste(BLUE, (0, 16, 32, 32))
    return image.convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written_extensions():
    """(extension, format) of the images that Pillow reads here and writes from RGB."""
    Image.init()
    pairs = sorted(Image.registered_extensions().items())
    usable = [(ext, kind) for ext, kind in pairs if kind in formats() and kind in Image.SAVE]
    return [pair for pair in usable if pair[1] not in ("XBM", "MSP", "FITS", "BLP", "HEIF")]  # other modes


@pytest.mark.parametrize(("ext", "kind"), written_extensions())
def test_what_pillow_writes_counts_and_is_read(ext, kind, tmp_path):
    assert ext[1:] in image_extensions()
    path = tmp_path / f"one{ext.upper()}"
    options = {"compression": "raw"} if kind == "TGA" else {}
    data = encode(halves(), "PNG" if kind in ("ICO", "ICNS") else kind, **options)
    path.write_bytes(encode(halves(), kind, sizes=[(32, 32)]) if kind in ("ICO", "ICNS") else data)
    pixels = decode(open_source(path)[0])
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    height = pixels.shape[0]
    assert np.abs(pixels[height // 4, 4].astype(int) - RED).max() < 40
    assert np.abs(pixels[3 * height // 4, 4].astype(int) - BLUE).max() < 40


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        pixels = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert pixels.shape == (6, 8, 3) and np.abs(pixels.astype(int) - RED).max() < 12, kind


def test_files_that_are_no_pixels_do_not_count():
    assert not image_extensions() & {"eps", "ps", "pdf", "wmf", "emf", "h5", "mpg", "mpeg", "grib", "bufr"}
    assert {"jpg", "jpeg", "jfif", "png", "gif", "tga", "ppm", "npy"} <= image_extensions()
    assert not set(formats()) & {"EPS", "WMF", "HDF5", "MPEG", "SPIDER"}
    assert ("avif" in image_extensions()) == features.check("avif")
    assert describe_extensions().startswith("jpg, jpeg, png, webp")


def test_a_format_that_pillow_lacks_does_not_count(monkeypatch):
    monkeypatch.setattr(image_formats.features, "check", lambda name: name != "avif")
    kinds = formats.__wrapped__()
    assert "AVIF" not in kinds and "WEBP" in kinds and kinds[0] == "JPEG" and kinds[-1] == "TGA"


def test_other_files_do_not_pass_for_tga():
    tga = encode(halves(), "TGA")
    assert plausible_tga(tga) and plausible_tga(encode(halves(), "TGA", compression="tga_rle"))
    for data in (b"", bytes(100), bytes(range(200)), tga[:300]):
        assert not plausible_tga(data)
        with pytest.raises(DecodeError, match="no image format|empty"):
            decode(data)


def test_heif(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    image_formats.register_heif()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for kind, options in (("HEIF", {}), ("HEIF", {"exif": exif.tobytes()})):
        data = encode(halves().crop((0, 0, 32, 24)), kind, quality=95, **options)
        assert is_heif(data)
        (tmp_path / "one.HEIC").write_bytes(data)
        pixels = decode(open_source(tmp_path)[0])
        assert pixels.shape == ((24, 32, 3) if not options else (32, 24, 3))
        corner = pixels[2, 2] if not options else pixels[2, -3]
        assert np.abs(corner.astype(int) - RED).max() < 12
    assert not is_heif(encode(halves(), "AVIF")) and heif
    monkeypatch.setattr("fastmim_jax.data.pillow_image.register_heif", lambda: False)
    with pytest.raises(DecodeError, match="needs pillow-heif .*extra `heif`"):
        decode(data)
