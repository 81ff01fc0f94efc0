"""Pages: layout, headers and footers."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.draw import glyphs, pages, style
from helpers.reconstructions import ROLES, plain_hog, random_reconstruction
from helpers.sweeps import sweep

NOTE = "each such patch's mean and contrast are taken from the truth"


SIZES = [(64, 64), (128, 128), (224, 224), (96, 160), (64, 32)]
SHAPES = [(*size, channels) for size in SIZES for channels in (1, 3, 4)]


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    sweep(SHAPES, [(64, 64, 1), (128, 128, 4), (224, 224, 3), (96, 160, 3), (64, 32, 3)]),
)
def test_hog_page_has_four_panels_a_row(tmp_path, height, width, channels):
    path = tmp_path / "new" / "hog.png"
    assert pages.draw_hog_reconstruction(*random_reconstruction(height, width, channels), path) == path
    page = np.asarray(Image.open(path))
    h, w = height // 8, width // 8
    scale = max(8, round(pages.panel_scale(h, w)))
    assert 224 <= h * scale <= 288
    columns = 4 * max(w * scale, style.NARROWEST) + 3 * style.GAP
    assert page.shape[1] == columns + 2 * style.MARGIN
    assert page.shape[0] > 2 * h * scale + style.GAP + 2 * style.MARGIN
    assert (page[:, : style.MARGIN - 1] == style.PAGE).all()
    assert [p.name for p in path.parent.iterdir()] == ["hog.png"]


def test_constant_image_is_drawn(tmp_path):
    images = np.full((1, 64, 64, 3), 0.5)
    cells, mask = plain_hog(images), np.ones((1, 8, 8), bool)
    assert not cells.any()
    path = tmp_path / "flat.png"
    pages.draw_hog_reconstruction(images, images, cells, cells, mask, path)
    assert Image.open(path).mode == "RGB"


def test_shapes_that_disagree_are_refused(tmp_path):
    images, encoder_input, prediction, target, mask = random_reconstruction()
    with pytest.raises(ValueError, match="roles .2, 4, 8.: expected equal"):
        args = images, encoder_input, prediction, target, mask[:, :4]
        pages.draw_hog_reconstruction(*args, tmp_path / "a.png")


@pytest.fixture
def labels(monkeypatch):
    """Record the headers and the footer of every page."""
    recorded = []
    compose = pages.compose

    def recording(rows, headers, footer):
        text = " ".join(" ".join([title, *notes]) for title, notes in headers)
        recorded.append((text, " ".join(footer)))
        return compose(rows, headers, footer)

    monkeypatch.setattr(pages, "compose", recording)
    return recorded


def test_labels_do_not_depend_on_the_prediction(tmp_path, labels):
    images, encoder_input, prediction, target, mask = random_reconstruction()
    for drawn in (prediction, target, 0 * target):
        pages.draw_hog_reconstruction(images, encoder_input, drawn, target, mask, tmp_path / "a.png")
    assert len(set(labels)) == 1


@pytest.mark.parametrize("role, word", [(glyphs.FILLED, "blue"), (glyphs.ABSENT, "flat gray")])
def test_hog_page_marks_thrown_cells_in_one_more_column(tmp_path, labels, role, word):
    *others, mask = random_reconstruction()
    pages.draw_hog_reconstruction(*others, mask, tmp_path / "a.png")
    roles = mask.astype(int)
    roles[0, :4][mask[0, :4]] = role
    pages.draw_hog_reconstruction(*others, roles, tmp_path / "b.png")
    (plain, _), (marked, _) = labels
    assert "marked" not in plain and word not in plain
    assert marked.count(word) == 2 and "amber: decoded" in marked
    widths = [Image.open(tmp_path / name).size[0] for name in ("a.png", "b.png")]
    assert widths[1] - widths[0] == 256 + style.GAP


def test_flat_patches_stay_flat_on_an_enlarged_page(tmp_path):
    images = np.random.default_rng(4).random((1, 16, 16, 3))
    path = pages.draw_pixel_reconstruction([pages.Column("a", (), images, ROLES[None])], tmp_path / "a.png")
    page = np.asarray(Image.open(path))
    panel = page[-256 - style.MARGIN : -style.MARGIN, style.MARGIN : -style.MARGIN]
    flat = (panel == glyphs.FLAT).all(-1)
    assert flat[128:, 128:].all() and not flat[:128].any()


def test_the_header_states_the_gain_which_only_the_prediction_has(tmp_path, labels):
    everything = random_reconstruction()
    pages.draw_hog_reconstruction(*everything, tmp_path / "a.png")
    pages.draw_hog_reconstruction(*everything, tmp_path / "b.png", gain=1.5)
    assert "x1.5" not in labels[0][0] and "x1.5" in labels[1][0]
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    true_column = 3 * (256 + style.GAP) + style.MARGIN
    np.testing.assert_array_equal(one[-560:, true_column:], two[-560:, true_column:])
    assert (one != two).any()


def test_pixel_page_says_where_patch_statistics_come_from(tmp_path, labels):
    images, encoder_input, *_ = random_reconstruction(96, 160, 4)
    path = tmp_path / "pixels.png"
    columns = [
        ("original", (), images),
        ("encoder input", (), encoder_input),
        ("filled in", (NOTE,), images),
    ]
    columns = [pages.Column(*column) for column in columns]
    pages.draw_pixel_reconstruction(columns, path, caption="step 5")
    headers, footer = labels[0]
    assert NOTE in headers
    assert "step 5" in footer and "channels 1-3 of 4" in footer
    height, width = Image.open(path).size[::-1]
    assert height > 2 * 256 and width == 3 * 427 + 2 * style.GAP + 2 * style.MARGIN


def test_masked_patches_keep_their_flat_colour_and_sharp_edges():
    picture = np.full((16, 32, 3), 200, np.uint8)
    picture[:, :16] = 0
    mask = np.array([[True, True, False, False]] * 2)
    sharp = pages.enlarge(picture, 64, 128, mask)
    assert (sharp[:, :64] == 0).all()


def test_text_is_wrapped_without_losing_words():
    font = style.font(13)
    lines = pages.wrap(NOTE, font, 120)
    assert " ".join(lines) == NOTE and len(lines) > 2
    assert max(map(font.getlength, lines)) <= 120
