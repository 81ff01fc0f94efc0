"""What is handed to the drawing: the right cells, and honest pixels."""

import jax
import numpy as np
import pytest

from fastmim_jax.tools import reconstruct
from fastmim_jax.tools.bench import bench
from fastmim_jax.tools.draw.glyphs import ABSENT, DECODED, FILLED, VISIBLE
from fastmim_jax.train.pretrain import make_pretrain_stage
from helpers import small

HALF = {"throw_ratio": 0.5}
RANDOM = np.random.default_rng(0)
BATCH = {"image": RANDOM.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), "flip": np.zeros(8, bool)}


def outcome(**method):
    config = small.config(batch_size=8)
    config.method.update(**method)
    run = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
    return run, *run.forward(run.create().eval_variables(), BATCH, np.int32(0))


@pytest.mark.parametrize("normalize", [True, False])
def test_filled_images_keep_what_was_visible_and_would_be_true_if_predictions_were(normalize):
    run, out, images = outcome(target="pixel", normalize_target=normalize)
    out = out._replace(mask=np.asarray(out.mask) > 0)
    perfect = out._replace(prediction=out.target)
    filled, note, _ = reconstruct._fill_in(run.model, perfect, perfect.mask, images)
    np.testing.assert_allclose(filled, images, atol=1e-4)
    assert ("taken from the truth" in note) == normalize

    filled, *_ = reconstruct._fill_in(run.model, out, out.mask, images)
    hidden = out.mask.repeat(8, 1).repeat(8, 2)
    np.testing.assert_array_equal(filled[~hidden], np.asarray(images)[~hidden])
    assert np.abs(filled - images)[hidden].mean() > 0.1


@pytest.mark.parametrize("size", [{"block_size": 8}, {"block_size": 16}])
def test_hog_is_drawn_cell_by_cell(monkeypatch, tmp_path, size):
    from fastmim_jax import hog

    run, out, images = outcome(**size)
    drawn = {}

    def note(images, seen, prediction, target, roles, path, **options):
        drawn.update(images=images, target=target, roles=roles)

    monkeypatch.setattr(reconstruct, "draw_hog_reconstruction", note)
    reconstruct.draw(run, out, images, 3, 5, tmp_path / "x.png")
    np.testing.assert_allclose(drawn["target"].reshape(5, 4, 4, 27), hog(images)[:5], atol=1e-6)
    np.testing.assert_allclose(drawn["images"], BATCH["image"][:5] / 255, atol=1e-5)
    np.testing.assert_array_equal(drawn["roles"].mean((1, 2)), 0.75)
    assert set(drawn["roles"].ravel()) == {VISIBLE, DECODED}


def columns_of(monkeypatch, path, **method):
    """Output and Columns of the first five images."""
    run, out, images = outcome(target="pixel", **method)
    drawn = []
    monkeypatch.setattr(reconstruct, "draw_pixel_reconstruction", lambda x, *_, **__: drawn.extend(x))
    reconstruct.draw(run, out, images, 3, 5, path)
    return jax.tree.map(lambda x: np.asarray(x[:5]) if x.ndim else x, out), drawn


@pytest.mark.parametrize("host", ["mae", "fastmim"])
def test_thrown_patches_are_marked_beside_what_was_filled_in(monkeypatch, tmp_path, host):
    out, (*_, filled, marked) = columns_of(monkeypatch, tmp_path, name=host, partial=HALF)
    np.testing.assert_array_equal(marked.roles == FILLED, out.thrown > 0)
    np.testing.assert_array_equal(marked.roles == VISIBLE, out.mask == 0)
    np.testing.assert_array_equal(marked.roles == DECODED, (out.mask > 0) & (out.thrown == 0))
    np.testing.assert_array_equal(marked.images, filled.images)
    assert "amber: decoded" in marked.note and "blue: thrown out" in marked.note
    assert not filled.roles.any() and "thrown" not in filled.note


def test_what_was_thrown_and_never_filled_in_is_left_out_of_both_columns(monkeypatch, tmp_path):
    out, (*_, filled, marked) = columns_of(
        monkeypatch, tmp_path, name="mae", partial=dict(HALF, fill="none")
    )
    assert (marked.roles == ABSENT).any()
    for column in (filled, marked):
        np.testing.assert_array_equal(column.roles == ABSENT, out.thrown > 0)
        assert "flat gray: thrown out, not predicted" in column.note


def test_nothing_is_marked_where_everything_is_decoded(monkeypatch, tmp_path):
    _, columns = columns_of(monkeypatch, tmp_path, name="mae")
    assert [column.title for column in columns] == ["original", "what the encoder saw", "filled in"]
    assert not any(np.any(column.roles) for column in columns)


def test_a_mixture_is_taken_apart_into_both_of_its_images():
    config = small.mixmim(small.config(batch_size=8))
    config.method.update(normalize_target=False, groups=2)
    run = make_pretrain_stage(config, records=64, devices=jax.devices()[:1])
    pixels = RANDOM.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    batch = {"image": pixels, "flip": np.zeros(8, bool)}
    out, images = jax.device_get(run.forward(run.create().eval_variables(), batch, np.int32(0)))
    out = out._replace(mask=out.mask > 0)
    partner = np.array([3, 2, 1, 0, 7, 6, 5, 4])
    fine = out.mask.repeat(32, 1).repeat(32, 2)[..., None]

    columns = reconstruct._mixture(run.model, out._replace(prediction=out.target), images)
    found = [column.images for column in columns]
    expected = [images, images[partner], np.where(fine, images[partner], images), images, images[partner]]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)

    *_, mixture, own, other = (column.images for column in reconstruct._mixture(run.model, out, images))
    assert np.abs(own - images)[np.broadcast_to(fine, own.shape)].mean() > 0.1  # predicted by no one yet
    np.testing.assert_array_equal(np.where(fine, other, own), mixture)  # and true where it was seen

    # An image's thrown cells are those that its own predictions lack, in whichever mixture.
    thrown = RANDOM.random(out.mask.shape) < 0.5
    columns = reconstruct._mixture(run.model, out._replace(thrown=thrown), images)
    own, other = (column.roles == FILLED for column in columns if "marked" in column.title)
    np.testing.assert_array_equal(own, thrown & out.mask)
    np.testing.assert_array_equal(other, (thrown & ~out.mask)[partner])


def test_bench_tells_its_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastmim_jax.tools.bench._reading_seconds", lambda batches: 0.5)
    (found,) = bench(small.config(), tmp_path)
    assert found["hog_share_of_step"] > 0 and found["images_per_second"] > 0
    assert found["reading_images_per_second"] == 32
    assert (tmp_path / "bench.json").exists() and "hog_share_of_step" in capsys.readouterr().out
