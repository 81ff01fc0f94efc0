import numpy as np
import pytest
from PIL import Image

from fastmim_jax.errors import UserError
from fastmim_jax.tools.draw import glyphs, pages

BINS = 9
NOTE = "hidden patches predicted; each one's mean and contrast are taken from the truth"


def plain_hog(images, cell=8):
    """(n, H, W, C) -> (n, h, w, C, 9), normalised: the definition, written a second time."""
    n, height, width, channels = images.shape
    p = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across, down = p[:, :, :-2] - p[:, :, 2:], p[:, :-2] - p[:, 2:]
    gx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    gy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    votes = np.floor(np.arctan2(gx, gy) / np.pi * BINS).astype(int) % BINS
    sums = np.where(votes[..., None] == np.arange(BINS), np.hypot(gx, gy)[..., None], 0.0)
    sums = sums.reshape(n, height // cell, cell, width // cell, cell, channels, BINS).sum((2, 4))
    return sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12)


def batch(height=64, width=64, channels=3, n=2):
    """Images, what was seen, true HOG, a prediction and the hidden cells."""
    rng = np.random.default_rng(0)
    images = rng.random((n, height // 8, width // 8, channels)).repeat(8, 1).repeat(8, 2)
    hidden = rng.random((n, height // 16, width // 16)) < 0.75
    seen = np.where(hidden.repeat(16, 1).repeat(16, 2)[..., None], 0.5, images)
    target = plain_hog(images)
    prediction = target + 0.1 * rng.normal(size=target.shape)
    return images, seen, prediction, target, hidden.repeat(2, 1).repeat(2, 2)


def drawn_angle(picture):
    """Degrees in [0, 180) of the drawn strokes, counter-clockwise from the x axis as seen."""
    weight = picture.astype(float).sum(-1) - float(sum(glyphs.GROUND))
    rows, columns = np.indices(weight.shape)
    x = columns - np.average(columns, weights=weight)
    y = np.average(rows, weights=weight) - rows  # rows count downwards, eyes count upwards
    twice = np.arctan2((2 * x * y * weight).sum(), ((x * x - y * y) * weight).sum())
    return np.degrees(twice / 2) % 180


def between(a, b):
    """Degrees between two undirected lines."""
    return abs((a - b + 90) % 180 - 90)


COLUMN, ROW = np.meshgrid(np.arange(24.0), np.arange(24.0))
# image whose level lines run along the named direction, and their angle as one sees them
EDGES = {
    "vertical": (COLUMN, 90),
    "horizontal": (ROW, 0),
    "rising": (ROW + COLUMN, 45),
    "falling": (COLUMN - ROW, 135),
}


@pytest.mark.parametrize("name", EDGES)
def test_strokes_lie_along_the_edges_of_an_image(name):
    image, angle = EDGES[name]
    middle = plain_hog(image[None, :, :, None])[0, 1:2, 1:2]
    assert between(drawn_angle(glyphs.hog_glyphs(middle, 32)), angle) <= 10.5  # half a bin


@pytest.mark.parametrize("scale", [8, 15, 16, 32])
@pytest.mark.parametrize("bin_index", range(BINS))
def test_each_bin_is_drawn_at_its_middle(bin_index, scale):
    cell = np.zeros((1, 1, 1, BINS))
    cell[..., bin_index] = 1
    assert between(drawn_angle(glyphs.hog_glyphs(cell, scale)), 20 * bin_index + 10) < 4


def test_glyphs_stay_in_their_cell_and_on_the_canvas():
    cells = np.zeros((2, 3, 1, BINS))
    cells[1, 2] = 1
    picture = glyphs.hog_glyphs(cells, 16)
    assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    inside = np.zeros((32, 48), bool)
    inside[16:, 32:] = True
    assert (picture[~inside] == glyphs.GROUND).all()
    assert (picture[inside] != glyphs.GROUND).any()


def test_dominant_orientation_outshines_a_flat_histogram():
    cells = np.zeros((1, 2, 3, BINS))
    cells[0, 0] = 1 / 3  # flat, unit norm
    cells[0, 1, :, 4] = 1
    picture = glyphs.hog_glyphs(cells, 16)
    assert picture[:, 16:].max() > 1.8 * picture[:, :16].max()


def test_strength_of_a_cell_ignores_its_neighbours():
    cells = np.random.default_rng(1).random((4, 5, 3, BINS))
    alone = glyphs.stroke_strength(cells[1:2, 2:3])
    np.testing.assert_array_equal(glyphs.stroke_strength(cells)[1:2, 2:3], alone)


def test_shared_maximum_scales_raw_sums_and_survives_zeros():
    raw = 50 * np.random.default_rng(2).random((6, 6, 3, BINS))
    full = glyphs.shared_maximum(raw, 0.5 * raw)
    assert 20 < full < 50
    bright = glyphs.hog_glyphs(raw, 8, full=full)
    np.testing.assert_array_equal(bright, glyphs.hog_glyphs(raw * 3, 8, full=full * 3))
    assert glyphs.shared_maximum(np.zeros_like(raw)) == 1


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -1.0])
def test_empty_or_broken_cells_are_drawn_as_ground(bad):
    picture = glyphs.hog_glyphs(np.full((2, 2, 3, BINS), bad), 8)
    assert (picture == glyphs.GROUND).all()


def test_hidden_cells_show_the_prediction_and_visible_ones_only_the_truth():
    *_, prediction, target, hidden = batch()
    hidden = hidden[0]
    roles = hidden.astype(int)
    first = glyphs.hidden_prediction(prediction[0], target[0], roles, 8)
    where = hidden.repeat(8, 0).repeat(8, 1)
    # The visible truth must not leak into hidden cells, nor the prediction into visible ones.
    other_truth = glyphs.hidden_prediction(prediction[0], 0 * target[0], roles, 8)
    other_guess = glyphs.hidden_prediction(0 * prediction[0], target[0], roles, 8)
    np.testing.assert_array_equal(first[where], other_truth[where])
    np.testing.assert_array_equal(first[~where], other_guess[~where])
    assert first[where].max() > first[~where].max()


@pytest.mark.parametrize("height, width", [(64, 64), (128, 128), (224, 224), (96, 160), (64, 32)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_hog_page_has_four_panels_a_row(tmp_path, height, width, channels):
    path = tmp_path / "new" / "hog.png"
    assert pages.draw_hog_reconstruction(*batch(height, width, channels), path) == path
    page = np.asarray(Image.open(path))
    h, w = height // 8, width // 8
    scale = max(8, round(pages.panel_scale(h, w)))
    assert 224 <= h * scale <= 288
    columns = 4 * max(w * scale, pages.NARROWEST) + 3 * pages.GAP
    assert page.shape[1] == columns + 2 * pages.MARGIN
    assert page.shape[0] > 2 * h * scale + pages.GAP + 2 * pages.MARGIN
    assert (page[:, : pages.MARGIN - 1] == pages.PAGE).all()
    assert [p.name for p in path.parent.iterdir()] == ["hog.png"]


def test_constant_image_is_drawn(tmp_path):
    images = np.full((1, 64, 64, 3), 0.5)
    cells, hidden = plain_hog(images), np.ones((1, 8, 8), bool)
    assert not cells.any()
    path = tmp_path / "flat.png"
    pages.draw_hog_reconstruction(images, images, cells, cells, hidden, path)
    assert Image.open(path).mode == "RGB"


def test_shapes_that_disagree_are_refused(tmp_path):
    images, seen, prediction, target, hidden = batch()
    with pytest.raises(ValueError, match="disagree"):
        pages.draw_hog_reconstruction(images, seen, prediction, target, hidden[:, :4], tmp_path / "a.png")


@pytest.fixture
def labels(monkeypatch):
    """Records the headers and the footer of every page composed."""
    seen = []
    compose = pages.compose

    def recording(rows, headers, footer):
        seen.append((" ".join(f"{title} {note}" for title, note in headers), footer))
        return compose(rows, headers, footer)

    monkeypatch.setattr(pages, "compose", recording)
    return seen


def test_labels_do_not_depend_on_the_prediction(tmp_path, labels):
    images, seen, prediction, target, hidden = batch()
    for guess in (prediction, target, 0 * target):
        pages.draw_hog_reconstruction(images, seen, guess, target, hidden, tmp_path / "a.png")
    assert len(set(labels)) == 1


ROLES = np.array([[glyphs.VISIBLE, glyphs.DECODED], [glyphs.FILLED, glyphs.ABSENT]])


def test_marks_lie_on_their_patches_and_nowhere_else():
    picture = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    marked = glyphs.mark(picture, ROLES)
    np.testing.assert_array_equal(marked[:8, :8], picture[:8, :8])
    assert (marked[8:, 8:] == glyphs.FLAT).all()
    red, blue = marked[..., 0].astype(int), marked[..., 2].astype(int)
    assert (red > blue)[:8, 8:].all() and (blue > red)[8:, :8].all()  # amber, blue


@pytest.mark.parametrize("role, word", [(glyphs.FILLED, "blue"), (glyphs.ABSENT, "flat gray")])
def test_hog_page_marks_thrown_cells_in_one_more_column(tmp_path, labels, role, word):
    *others, hidden = batch()
    pages.draw_hog_reconstruction(*others, hidden, tmp_path / "a.png")
    roles = hidden.astype(int)
    roles[0, :4][hidden[0, :4]] = role
    pages.draw_hog_reconstruction(*others, roles, tmp_path / "b.png")
    (plain, _), (marked, _) = labels
    assert "marked" not in plain and word not in plain
    assert marked.count(word) == 2 and "amber: decoded" in marked
    widths = [Image.open(tmp_path / name).size[0] for name in ("a.png", "b.png")]
    assert widths[1] - widths[0] == 256 + pages.GAP


def test_what_is_not_predicted_is_not_drawn_as_a_prediction():
    cells = np.full((2, 2, 3, BINS), 0.5)
    picture = glyphs.hidden_prediction(cells, cells, ROLES, 16)
    assert (picture[16:, 16:] == glyphs.FLAT).all()
    for quarter in (picture[:16, :16], picture[:16, 16:], picture[16:, :16]):
        assert len(np.unique(quarter.reshape(-1, 3), axis=0)) > 3


def test_flat_patches_stay_flat_on_an_enlarged_page(tmp_path):
    images = np.random.default_rng(4).random((1, 16, 16, 3))
    path = pages.draw_pixel_reconstruction([pages.Column("a", "", images, ROLES[None])], tmp_path / "a.png")
    page = np.asarray(Image.open(path))
    panel = page[-256 - pages.MARGIN : -pages.MARGIN, pages.MARGIN : -pages.MARGIN]
    flat = (panel == glyphs.FLAT).all(-1)
    assert flat[128:, 128:].all() and not flat[:128].any()


def test_gain_is_told_in_the_header_and_leaves_the_truth_alone(tmp_path, labels):
    everything = batch()
    pages.draw_hog_reconstruction(*everything, tmp_path / "a.png")
    pages.draw_hog_reconstruction(*everything, tmp_path / "b.png", gain=1.5)
    assert "x1.5" not in labels[0][0] and "x1.5" in labels[1][0]
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    true_column = 3 * (256 + pages.GAP) + pages.MARGIN
    np.testing.assert_array_equal(one[-560:, true_column:], two[-560:, true_column:])
    assert (one != two).any()


def test_pixel_page_says_where_patch_statistics_come_from(tmp_path, labels):
    images, seen, *_ = batch(96, 160, 4)
    path = tmp_path / "pixels.png"
    columns = [("original", "", images), ("what the encoder saw", "", seen), ("filled in", NOTE, images)]
    columns = [pages.Column(*column) for column in columns]
    pages.draw_pixel_reconstruction(columns, path, caption="step 5")
    headers, footer = labels[0]
    assert NOTE in headers
    assert "step 5" in footer and "channels 1-3 of 4" in footer
    height, width = Image.open(path).size[::-1]
    assert height > 2 * 256 and width == 3 * 427 + 2 * pages.GAP + 2 * pages.MARGIN


def test_hidden_cells_keep_their_flat_colour_and_hard_edges():
    picture = np.full((16, 32, 3), 200, np.uint8)
    picture[:, :16] = 0
    hidden = np.array([[True, True, False, False]] * 2)
    sharp = pages.enlarge(picture, 64, 128, hidden)
    assert (sharp[:, :64] == 0).all()


def test_text_is_wrapped_to_its_column_without_losing_words():
    font = pages.ImageFont.load_default(13)
    text = NOTE
    lines = pages.wrap(text, font, 120)
    assert " ".join(lines) == text and len(lines) > 2
    assert max(map(font.getlength, lines)) <= 120


def test_curve_opens_as_png_and_leaves_out_what_is_not_finite(tmp_path):
    steps = np.arange(0, 500, 5)
    losses = 0.1 * np.exp(-steps / 200) + 0.04
    losses[3] = np.nan
    path = pages.draw_curve(
        tmp_path / "curve.png",
        steps,
        losses,
        baselines={"predicting zero": 1 / 9, "mean": 1 / 9, "unknown": np.nan},
        evals=([100, 400], [0.1, 0.05]),
        title="a run",
    )
    image = Image.open(path)
    assert image.format == "PNG" and image.size[0] > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_curve_of_one_point_and_of_none(tmp_path):
    pages.draw_curve(tmp_path / "one.png", [10], [0.5], evals=([], []))
    with pytest.raises(UserError, match="no finite loss"):
        pages.draw_curve(tmp_path / "none.png", [1, 2], [np.nan, np.inf])


def test_running_mean_of_a_line_is_the_line():
    line = np.arange(20.0)
    np.testing.assert_allclose(pages.running_mean(line, 5)[2:-2], line[2:-2])
    np.testing.assert_allclose(pages.running_mean(np.ones(3), 9), 1)


def test_baseline_labels_never_overlap():
    moved = pages.spread([0.5, 0.1, 0.5, 0.52], 0.1)
    assert np.diff(np.sort(moved)).min() > 0.0999
    assert moved[1] == 0.1
