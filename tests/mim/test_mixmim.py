"""MixMIM against the published code, and its own properties."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.mixmim import micro_batch_split, mix, partner, split_groups, split_pairs, unmix
from fastmim_jax.models.base import AttentionGroups
from fastmim_jax.train import sharding
from fastmim_jax.train.pretrain import make_pretrain_stage
from fastmim_jax.train.state import count_parameters
from helpers import initial, published, small
from helpers.sweeps import sweep

CASES, NUMBERS = published.load("mixmim")
PRETRAINING = [name for name in CASES if name != "classifier"]


FORMS = {"masked": 10**9, "gathered": 1}  # of attention, by the number of cells from which it gathers


PUBLISHED = [*((name, "masked") for name in PRETRAINING), ("norm1", "gathered")]
KEPT = [("odd_batch", "masked"), ("norm1", "gathered")]  # MAE covers raw pixels


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), sweep(PUBLISHED, KEPT))
def test_equals_published(name, form, monkeypatch):
    monkeypatch.setattr("fastmim_jax.models.window_attention.MIN_GROUP_ATTENTION_CELLS", FORMS[form])
    case = CASES[name]
    params = to_ours(published.weights(CASES, name), "mixmim")["params"]
    noise, images = NUMBERS[f"{name}/noise"], published.images(case["seed"], case["batch"], 96, 96)
    out, grads = small.forward_and_gradients(small.published_mixmim(case), params, images, noise)
    published.assert_equal(case, out, to_theirs({"params": grads}, "mixmim"))
    np.testing.assert_allclose(out.prediction[..., ::16], NUMBERS[f"{name}/prediction"], rtol=0, atol=5e-6)


def tiny(name="mixmim_b", **changes):
    config = small.mixmim(small.config(), name)
    config.method.update(**changes)
    return create_method(config.method)


MIXTURES = [
    "mixmim_b masked",
    pytest.param("mixmim_b gathered", marks=pytest.mark.slow),
    pytest.param("swin_t masked", marks=pytest.mark.exhaustive),
]


@pytest.fixture(scope="module", params=MIXTURES)
def mixture(request):
    """Variables, images, noise and a jitted call(images) -> (Output, encoded tokens) at 128 px."""
    name, form = request.param.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmim_jax.models.window_attention.MIN_GROUP_ATTENTION_CELLS", FORMS[form])
        yield make_mixture(tiny(name, groups=2))


def make_mixture(method):
    images = jax.random.normal(jax.random.key(0), (4, 128, 128, 3))
    noise = jax.random.uniform(jax.random.key(1), (2, 16))
    keys = {"params": jax.random.key(2), "mask": jax.random.key(3)}
    variables = small.variables_of(method, keys, images)

    @jax.jit
    def call(images):
        capture = dict(capture_intermediates=lambda module, name: name == "encode")
        out, captured = method.apply(variables, images, noise=noise, **capture)
        return out, captured["intermediates"]["encoder"]["encode"][0].tokens

    return variables, images, noise, call


@pytest.mark.slow
def test_the_partners_pixels_do_not_reach_the_own_tokens(mixture):
    _, images, _, call = mixture
    out, tokens = call(images)
    mask = np.asarray(out.mask) > 0
    assert (mask.sum((1, 2)) == 8).all()
    fine = mask.repeat(32, 1).repeat(32, 2)[..., None]
    # Image 1 is the partner of image 0; both its masked and its visible cells change.
    changed = images.at[1].add(5 * jax.random.normal(jax.random.key(4), images.shape[1:]))
    again = call(changed)[1]
    np.testing.assert_array_equal(tokens[0][~mask[0]], again[0][~mask[0]])
    assert (np.abs(tokens[0] - again[0]).max(-1)[mask[0]] > 0).all()
    np.testing.assert_array_equal(tokens[2:], again[2:])  # another group
    elsewhere = jnp.where(fine, images, images.at[1].add(5))  # changed where mixture 0 has image 0
    np.testing.assert_array_equal(tokens[0], call(elsewhere)[1][0])


@pytest.mark.slow
def test_both_mixtures_of_a_pair_hold_every_cell_once(mixture):
    _, images, _, call = mixture
    out, _ = call(images)
    fine = (np.asarray(out.mask) > 0).repeat(32, 1).repeat(32, 2)[..., None]
    partner = images[np.array([1, 0, 3, 2])]
    np.testing.assert_array_equal(out.encoder_input, np.where(fine, partner, images))
    np.testing.assert_array_equal(
        out.encoder_input + np.asarray(out.encoder_input)[[1, 0, 3, 2]], images + partner
    )


@pytest.mark.slow
def test_predictions_come_from_the_stream_where_cells_are_masked(mixture):
    """A prediction depends only on the mixture in which its cell is masked."""
    _, images, _, call = mixture
    out, _ = call(images)
    mask = np.asarray(out.mask) > 0
    fine = mask.repeat(32, 1).repeat(32, 2)[..., None]
    # Mixture 1 holds the masked cells of image 0.
    changed = call(jnp.where(fine, images.at[0].add(3.0), images))[0].prediction
    moved = np.abs(changed - out.prediction).max(-1) > 0
    assert not moved[0][mask[0]].any() and moved[0][~mask[0]].all()


@pytest.mark.slow
def test_unmixing_returns_constants_to_their_images():
    """Streams that predict one constant per image give it everywhere after unmixing."""
    constants = jnp.arange(6.0)[:, None, None, None] * jnp.ones((6, 3, 5, 2))
    mask = jnp.asarray(np.random.default_rng(0).random((2, 3, 5)) < 0.5).repeat(3, axis=0)
    others = partner(constants, 2)
    assert others[:, 0, 0, 0].tolist() == [2, 1, 0, 5, 4, 3]
    np.testing.assert_array_equal(unmix(constants, others, mask, 2), constants)
    mixed = mix(constants, mask, 2)
    np.testing.assert_array_equal(mixed[mask], others[mask])
    np.testing.assert_array_equal(mixed[~mask], constants[~mask])


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "parts"), [(1, 4), (2, 4), (4, 8), (4, 16), (16, 16)])
def test_micro_batches_keep_pairs_and_their_masks(groups, parts):
    size = 32 // groups
    images = np.asarray(split_pairs(jnp.arange(32), groups, parts))
    masks = np.asarray(split_groups(jnp.arange(groups), 32, parts))
    assert sorted(images.ravel()) == list(range(32))
    for part, rows in zip(images, masks, strict=True):
        for row, members in zip(rows, part.reshape(len(rows), -1), strict=True):
            assert (members // size == row).all()
            assert (members % size + members[::-1] % size == size - 1).all()


def test_pairs_are_never_split():
    assert micro_batch_split(1024, 16, 32) == (32, 1) and micro_batch_split(1024, 16, 512) == (32, 16)
    assert micro_batch_split(1024, 16, 1024) is None and micro_batch_split(24, 8, 1) is None
    with pytest.raises(ValueError, match="3 micro-batches do not split 4 groups of pairs in a batch of 32"):
        split_pairs(jnp.arange(32), 4, 3)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_mask_ratio_of_no_cell_mixes_nothing():
    method = tiny(mask_ratio=0.2)  # of 4 cells: none
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    keys = {"params": jax.random.key(2), "mask": jax.random.key(3)}
    variables = initial.variables(method, keys, images)
    out = jax.jit(lambda x: method.apply(variables, x, rngs=keys))(images)
    np.testing.assert_array_equal(out.encoder_input, images)
    assert not np.asarray(out.mask).any() and (np.asarray(out.loss_weight) == 1).all()
    encoder = {"params": variables["params"]["encoder"]}
    plain = jax.jit(method.encoder.clone(parent=None).apply)(encoder, images).tokens
    parts = AttentionGroups(jnp.ones((2, 2, 2), bool))

    def separated(module, images):
        return module.encode(module.embed(images), parts).tokens

    both = jax.jit(lambda x: method.encoder.clone(parent=None).apply(encoder, x, method=separated))(images)
    np.testing.assert_allclose(both, plain, atol=1e-6)


@pytest.mark.parametrize(("batch", "groups"), [(16, 8), (16, 16), (6, 4), (5, 4), (1, 8), (512, 16)])
def test_a_small_batch_has_fewer_groups(batch, groups):
    count = tiny(groups=groups).noise_shape((batch, 64, 96, 3))
    expected = {(16, 8): 8, (16, 16): 8, (6, 4): 1, (5, 4): 2, (1, 8): 1, (512, 16): 16}
    assert count == (expected[batch, groups], 6)


@pytest.mark.slow
@pytest.mark.parametrize("form", sweep(FORMS, ["gathered"]))
def test_mixing_moves_nothing_between_devices(form, monkeypatch):
    """8 groups on 8 devices communicate sums (gradients, the loss) only."""
    monkeypatch.setattr("fastmim_jax.models.window_attention.MIN_GROUP_ATTENTION_CELLS", FORMS[form])
    config = small.mixmim(small.config())
    run = make_pretrain_stage(config, 64, jax.devices())
    batch = run.to_devices({"image": np.zeros((16, 64, 64, 3), np.uint8), "flip": np.zeros(16, bool)}, 16)
    with jax.set_mesh(run.mesh):
        text = run.step.jitted.lower(run.abstract, batch).compile().as_text()
    assert "all-reduce" in text
    for operation in ("collective-permute", "all-to-all", "all-gather"):
        assert operation not in text, operation
    assert run.mesh.shape == sharding.make_mesh(1).shape


@pytest.mark.slow
def test_the_published_model_has_the_published_number_of_parameters():
    config = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "mixmim.py"))["get_config"]("base")
    run = make_pretrain_stage(config, 1_281_167, jax.devices()[:1])
    fixed = 56 * 56 * 128 + 7 * 7 * 512  # sine-cosine tables, parameters in the published code
    assert count_parameters(run.abstract.params) + fixed == 114_665_784
    assert run.plan.num_masked == 24 and run.plan.peak_lr == pytest.approx(1.2e-3)
    assert run.model.noise_shape((2048, 224, 224, 3)) == (16, 49)
