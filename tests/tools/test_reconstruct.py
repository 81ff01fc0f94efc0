"""The cells and pixels that are drawn, and their labels."""

import jax
import numpy as np
import pytest

from fastmim_jax import hog
from fastmim_jax.draw.glyphs import ABSENT, DECODED, FILLED, VISIBLE
from fastmim_jax.tools import reconstruct
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small

HALF = {"throw_ratio": 0.5}
RANDOM = np.random.default_rng(0)
BATCH = {"image": RANDOM.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), "flip": np.zeros(8, bool)}


def forward(**method):
    """Return a stage, its output and the normalised images."""
    config = small.config(batch_size=8)
    config.method.update(**method)
    config.method.backbone.depth = 1
    stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
    return stage, *stage.forward(stage.create().eval_variables(), BATCH, np.int32(0))


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_visible_patches_are_true_and_masked_ones_are_predictions(normalize):
    stage, out, images = forward(target="pixel", normalize_target=normalize)
    out = out._replace(mask=np.asarray(out.mask) > 0)
    perfect = out._replace(prediction=out.target)
    filled = reconstruct._fill_in(stage.model, perfect, perfect.mask, images)
    np.testing.assert_allclose(filled.images, images, atol=1e-4)
    assert any("taken from the truth" in note for note in filled.notes) == normalize

    filled = reconstruct._fill_in(stage.model, out, out.mask, images).images
    masked = out.mask.repeat(8, 1).repeat(8, 2)
    np.testing.assert_array_equal(filled[~masked], np.asarray(images)[~masked])
    assert np.abs(filled - images)[masked].mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("size", [{"block_size": 8}, {"block_size": 16}])
def test_hog_is_drawn_cell_by_cell(monkeypatch, tmp_path, size):
    stage, out, images = forward(**size)
    drawn = {}

    def record(images, encoder_input, prediction, target, roles, path, **options):
        drawn.update(images=images, target=target, roles=roles)

    monkeypatch.setattr(reconstruct, "draw_hog_reconstruction", record)
    reconstruct.draw(stage, out, images, 3, 5, tmp_path / "x.png")
    np.testing.assert_allclose(drawn["target"].reshape(5, 4, 4, 27), hog(images)[:5], atol=1e-6)
    np.testing.assert_allclose(drawn["images"], BATCH["image"][:5] / 255, atol=1e-5)
    np.testing.assert_array_equal(drawn["roles"].mean((1, 2)), 0.75)
    assert set(drawn["roles"].ravel()) == {VISIBLE, DECODED}


@pytest.mark.slow
def test_the_finest_of_several_scales_is_drawn(monkeypatch, tmp_path):
    layers = dict(local_layers=(1,), target_scales=(4,))
    stage, out, images = forward(name="localmim", **layers)
    drawn = {}

    def record(images, encoder_input, prediction, target, roles, path, **options):
        drawn.update(prediction=prediction, target=target, roles=roles)

    monkeypatch.setattr(reconstruct, "draw_hog_reconstruction", record)
    reconstruct.draw(stage, out, images, 3, 5, tmp_path / "x.png")
    assert drawn["prediction"].shape == drawn["target"].shape == (5, 8, 8, 3, 9)
    np.testing.assert_allclose(drawn["target"].reshape(5, 8, 8, 27), hog(images, cell=4)[:5], atol=1e-5)
    np.testing.assert_array_equal(drawn["roles"].mean((1, 2)), 0.75)


def columns_of(monkeypatch, path, **method):
    """Return the Output and the Columns of the first five images."""
    stage, out, images = forward(target="pixel", **method)
    drawn = []
    monkeypatch.setattr(reconstruct, "draw_pixel_reconstruction", lambda x, *_, **__: drawn.extend(x))
    reconstruct.draw(stage, out, images, 3, 5, path)
    return jax.tree.map(lambda x: np.asarray(x[:5]) if x.ndim else x, out), drawn


@pytest.mark.slow
@pytest.mark.parametrize("host", ["mae", "fastmim"])
def test_thrown_patches_are_marked_beside_the_filled_in_images(monkeypatch, tmp_path, host):
    out, (*_, filled, marked) = columns_of(monkeypatch, tmp_path, name=host, partial=HALF)
    np.testing.assert_array_equal(marked.roles == FILLED, out.thrown > 0)
    np.testing.assert_array_equal(marked.roles == VISIBLE, out.mask == 0)
    np.testing.assert_array_equal(marked.roles == DECODED, (out.mask > 0) & (out.thrown == 0))
    np.testing.assert_array_equal(marked.images, filled.images)
    assert marked.notes[:2] == ("amber: decoded", "blue: thrown, filled in from neighbours")
    assert not filled.roles.any() and not any("thrown" in note for note in filled.notes)


@pytest.mark.slow
def test_absent_patches_are_flat_in_both_columns(monkeypatch, tmp_path):
    out, (*_, filled, marked) = columns_of(
        monkeypatch, tmp_path, name="mae", partial=dict(HALF, fill="none")
    )
    assert (marked.roles == ABSENT).any()
    for column in (filled, marked):
        np.testing.assert_array_equal(column.roles == ABSENT, out.thrown > 0)
        assert "flat gray: thrown, not predicted" in column.notes


@pytest.mark.slow
def test_nothing_is_marked_if_all_masked_patches_are_decoded(monkeypatch, tmp_path):
    _, columns = columns_of(monkeypatch, tmp_path, name="mae")
    assert [column.title for column in columns] == ["original", "encoder input", "filled in"]
    assert not any(np.any(column.roles) for column in columns)


@pytest.mark.slow
def test_both_images_are_reconstructed_from_their_mixture():
    config = small.mixmim(small.config(batch_size=8))
    config.method.update(normalize_target=False, groups=2)
    stage = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
    pixels = RANDOM.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    batch = {"image": pixels, "flip": np.zeros(8, bool)}
    out, images = jax.device_get(stage.forward(stage.create().eval_variables(), batch, np.int32(0)))
    out = out._replace(mask=out.mask > 0)
    partner = np.array([3, 2, 1, 0, 7, 6, 5, 4])
    fine = out.mask.repeat(32, 1).repeat(32, 2)[..., None]

    columns = reconstruct._mixture_columns(stage.model, out._replace(prediction=out.target), images)
    found = [column.images for column in columns]
    expected = [images, images[partner], np.where(fine, images[partner], images), images, images[partner]]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)

    *_, mixture, own, other = (
        column.images for column in reconstruct._mixture_columns(stage.model, out, images)
    )
    assert np.abs(own - images)[np.broadcast_to(fine, own.shape)].mean() > 0.1  # an untrained prediction
    np.testing.assert_array_equal(np.where(fine, other, own), mixture)  # true where it is visible

    # Thrown cells of an image: masked ones of its own mixture, or visible ones of its partner's.
    thrown = RANDOM.random(out.mask.shape) < 0.5
    columns = reconstruct._mixture_columns(stage.model, out._replace(thrown=thrown), images)
    own, other = (column.roles == FILLED for column in columns if "marked" in column.title)
    np.testing.assert_array_equal(own, thrown & out.mask)
    np.testing.assert_array_equal(other, (thrown & ~out.mask)[partner])
