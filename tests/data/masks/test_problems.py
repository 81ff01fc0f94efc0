"""Masks that cannot be used: named by file, counted, with what to do."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.masks import MaskError, open_masks
from fastmim_jax.data.masks.base import MaskedFiles, number_names
from fastmim_jax.data.masks.coding import values_from_zero
from fastmim_jax.data.masks.label_image import read_label_image
from fastmim_jax.data.masks.pairs import pair_folders, pair_names
from fastmim_jax.data.masks.problems import KINDS, describe_problems
from fastmim_jax.data.masks.scan import scan_masks
from fastmim_jax.data.pillow_image import ORIENTATION
from fastmim_jax.errors import UserError
from helpers.mask_files import save, write_folder


def read_all(root):
    """The masks of a folder with three classes, those of all of its files."""
    pairs = pair_folders(str(root / "images"), str(root / "masks"))
    return MaskedFiles(str(root), number_names(3), pairs.images, pairs.masks, values_from_zero(3))


def rotated(path, orientation):
    """Save an image again with an EXIF orientation."""
    image = Image.open(path)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)


def test_scan_counts_pixels_and_every_kind_of_problem(tmp_path):
    drawn = write_folder(tmp_path, 6)
    found = scan_masks(read_all(tmp_path), threads=2)
    labels = np.concatenate([mask.ravel() for _, mask in drawn])
    np.testing.assert_array_equal(found.pixels, np.bincount(labels, minlength=3))
    assert found.ignored == 0 and found.largest == (44, 32)
    masks = tmp_path / "masks"
    save(masks / "00.png", np.full((24, 32), 7, np.uint8))
    save(masks / "01.png", np.zeros((5, 4), np.uint8))
    save(tmp_path / "images" / "02.png", np.zeros((20, 30, 3), np.uint8))
    save(masks / "02.png", np.zeros((20, 30), np.uint8))
    rotated(tmp_path / "images" / "02.png", 6)
    save(masks / "03.jpg", drawn[3][1])
    (masks / "03.png").unlink()
    (masks / "04.png").write_bytes(b"\x89PNG no more")
    save(masks / "05.png", np.full((44, 32, 3), (1, 2, 3), np.uint8))
    with pytest.raises(UserError) as error:
        scan_masks(read_all(tmp_path))
    text = str(error.value)
    assert text.startswith(f"6 of 6 masks of {tmp_path} cannot be used; ")
    for part in (
        "1 with values beyond the classes (",
        "00.png: 7; expected at most 2): add a line `NAME VALUE` for each to the legend",
        "1 of another size than their image (",
        "01.png: 4 x 5, the image 32 x 28)",
        "1 not rotated as the EXIF orientation of their image asks (",
        "`mogrify -auto-orient`",
        "1 in a format that does not keep labels exactly (",
        "03.jpg: JPEG)",
        "1 that cannot be read (",
        "1 with colours, but no legend for them (",
        "05.png: such as 1 2 3)",
    ):
        assert part in text, part


def test_one_mask_that_cannot_be_used(tmp_path):
    write_folder(tmp_path, 2)
    save(tmp_path / "masks" / "00.png", np.full((24, 32), 7, np.uint8))
    with pytest.raises(
        MaskError, match=r"00.png: a mask with values beyond .*\(7; expected at most 2\)"
    ) as e:
        read_all(tmp_path).read(0)
    again = pickle.loads(pickle.dumps(e.value))
    assert (again.kind, str(again)) == ("value", str(e.value)) and again.kind in KINDS
    (tmp_path / "images" / "01.png").write_bytes(b"")
    with pytest.raises(MaskError, match="whose image cannot be read"):
        read_all(tmp_path).read(1)
    with pytest.raises(MaskError, match="whose image cannot be read"):
        read_all(tmp_path).check(1)
    text = describe_problems("/data", 10, [e.value] * 5)
    assert "5 of 10 masks of /data" in text and text.count("expected at most 2") == 3 and ", ...)" in text


def test_upright_images_and_masks_agree(tmp_path):
    write_folder(tmp_path, 1)
    for name in ("images", "masks"):
        rotated(tmp_path / name / "00.png", 6)
    item = read_all(tmp_path).read(0)
    assert item.image.shape == (32, 24, 3) and item.mask.shape == (32, 24)
    assert read_all(tmp_path).check(0).shape == (32, 24)


def test_missing_masks_and_images(tmp_path):
    write_folder(tmp_path, 4)
    (tmp_path / "masks" / "02.png").unlink()
    (tmp_path / "images" / "03.png").unlink()
    pairs = pair_folders(str(tmp_path / "images"), str(tmp_path / "masks"))
    assert len(pairs.images) == len(pairs.masks) == 2
    first, second = pairs.notices
    assert "1 of 3 images without a mask left out, such as 02.png: put 02.png into" in first
    assert "1 of 3 masks without an image left out, such as 03.png: put 03.jpg into" in second
    save(tmp_path / "masks" / "00.tif", np.zeros((24, 32), np.uint8))
    with pytest.raises(UserError, match="1 names with two files, such as 00.png and 00.tif"):
        pair_folders(str(tmp_path / "images"), str(tmp_path / "masks"))


def test_no_pair(tmp_path):
    write_folder(tmp_path / "a", 1)
    save(tmp_path / "b" / "other.png", np.zeros((4, 4), np.uint8))
    images, masks = str(tmp_path / "a" / "images"), str(tmp_path / "b")
    with pytest.raises(UserError, match=r"such as other and 00\); expected 00.jpg and 00.png"):
        pair_folders(images, masks)
    with pytest.raises(UserError, match="list.txt names 1 images, none of them"):
        pair_names(images, masks, ["x"], "list.txt")
    with pytest.raises(UserError, match="does not exist"):
        pair_folders(images, str(tmp_path / "none"))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_png_of_few_bits(tmp_path, bits):
    values = np.arange(8, dtype=np.uint8).reshape(2, 4) % 2**bits
    write_gray_png(tmp_path / "few.png", values, bits)
    np.testing.assert_array_equal(read_label_image(str(tmp_path / "few.png"), DecodeRules()), values)


def write_gray_png(path, values, bits):
    """A gray PNG of few bits, which Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(planes.reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_arrays_and_fractions(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 3), 70000))
    assert read_label_image(str(tmp_path / "a.npy"), DecodeRules())[0, 0] == 70000
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(MaskError, match="expected \\(height, width\\) integers"):
        read_label_image(str(tmp_path / "a.npy"), DecodeRules())


def test_classes_are_given(tmp_path):
    write_folder(tmp_path, 1)
    assert open_masks(tmp_path, classes=("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
    masks = open_masks(tmp_path, classes=2)
    assert masks.class_names == ("class 0", "class 1")
    with pytest.raises(MaskError, match="values beyond"):
        masks.read(0)
