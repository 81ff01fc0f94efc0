"""Label maps are written exactly, and pages show image, truth and prediction."""

import numpy as np
from PIL import Image

from fastmim_jax.draw.overlays import (
    LabelledPicture,
    class_colours,
    draw_segmentations,
    overlay,
    save_label_map,
)

LABELS = np.arange(12).reshape(3, 4)


def test_label_maps_keep_their_classes(tmp_path):
    for classes, labels in ((12, LABELS), (256, LABELS * 20), (600, LABELS * 50)):
        path = save_label_map(tmp_path / f"{classes}.png", labels, classes)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)


def test_classes_have_colours_of_their_own():
    assert len(np.unique(class_colours(150), axis=0)) == 150
    image = np.full((3, 4, 3), 100, np.uint8)
    shown = overlay(image, np.where(LABELS < 6, -1, LABELS), 12)
    np.testing.assert_array_equal(shown[LABELS < 6], 100)
    assert len(np.unique(shown[LABELS >= 6], axis=0)) == 6


def test_a_page_has_a_row_of_three_panels_for_each_image(tmp_path):
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((40, 10, 3), np.uint8)]
    pictures = [LabelledPicture(x, x[..., 0] - 1 + 1, x[..., 0].astype(int)) for x in images]
    path = draw_segmentations(tmp_path / "page.png", pictures, ("sky", "tree"), "step 3")
    width, height = Image.open(path).size
    assert width > 3 * 256 and height > 2 * 256
    flat = draw_segmentations(tmp_path / "flat.png", pictures[:1] * 2, ("sky", "tree"))
    assert Image.open(flat).height < 2 * 256  # 20 x 30 pixels: panels are as flat


def test_a_page_shows_the_colours_of_its_classes(tmp_path):
    """Of those that are there, and no more than a page can name."""
    picture = LabelledPicture(np.zeros((20, 30, 3), np.uint8), np.full((20, 30), -1), np.full((20, 30), 2))
    page = Image.open(draw_segmentations(tmp_path / "a.png", [picture], ("sky", "tree", "cat")))
    colours = {colour for _, colour in page.getcolors(1 << 20)}
    sky, _, cat = map(tuple, class_colours(3).tolist())
    assert cat in colours and sky not in colours
    labels = np.arange(600).reshape(20, 30) % 150
    many = LabelledPicture(picture.image, labels, labels)
    names = [f"a class of a long name {index}" for index in range(150)]
    larger = Image.open(draw_segmentations(tmp_path / "b.png", [many], names))
    assert page.height < larger.height < page.height + 400
