"""SimMIM against the published code, and its own properties."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.simmim import SimMIM
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.zoo import create_model
from fastmim_jax.train.pretrain import make_pretrain_stage
from fastmim_jax.train.state import count_parameters
from helpers import published, small
from helpers.sweeps import sweep

DATA = {family: published.load(f"simmim_{family}") for family in ("vit", "swin")}
CASES = [(family, name) for family, (cases, _) in DATA.items() for name in cases]
KEPT = [case for case in CASES if case[0] == "vit"]


def noise_of(permutations):
    """Return noise that masks the first cells of every row of a permutation first."""
    ranks = permutations.argsort(1).astype(np.float32)
    return 1 - ranks / permutations.shape[1]


def upsample(mask, images):
    """(B, h, w) -> (B, H, W, 1) bool."""
    rows, columns = (side // cells for side, cells in zip(images.shape[1:3], mask.shape[1:], strict=True))
    return (np.asarray(mask) > 0).repeat(rows, 1).repeat(columns, 2)[..., None]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), sweep(CASES, KEPT))
def test_equals_published(family, name):
    cases, numbers = DATA[family]
    case, table = cases[name], f"simmim_{family}"
    method = small.published_simmim(family, case)
    weights = published.weights(cases, name)
    params = to_ours(weights, table)["params"]
    back = to_theirs({"params": params}, table)
    assert set(back) == set(weights)
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    images = published.images(case["seed"], case["batch"], 64, 64)
    noise = noise_of(numbers[f"{name}/permutations"])
    out, grads = small.forward_and_gradients(method, params, images, noise)
    published.assert_equal(case, out, to_theirs({"params": grads}, table))
    assert method.num_masked(noise.shape[1]) == case["hidden"]
    masked = upsample(numbers[f"{name}/mask"], images)
    np.testing.assert_array_equal(upsample(out.mask, images), masked)
    np.testing.assert_array_equal(out.encoder_input, np.where(masked, 0, images))
    if f"{name}/prediction" in numbers:
        np.testing.assert_allclose(
            out.prediction[..., ::16], numbers[f"{name}/prediction"], rtol=0, atol=8e-6
        )


def tiny(family="vit", **changes):
    config = small.simmim(small.config())
    config = config if family == "vit" else small.over(family, config)
    config.method.update_from_flattened_dict(changes)
    return create_method(config.method)


@pytest.mark.parametrize(
    ("blocks", "ratio", "masked"), [(36, 0.6, 22), (10, 0.9, 9), (4, 0.6, 3), (3, 0.01, 1)]
)
def test_masked_blocks_are_rounded_up(blocks, ratio, masked):
    """Unlike in `Method`, which rounds 10 * (1 - 0.9) visible blocks down to 0."""
    options = dict(target=Pixels(normalize=False), block_size=32, mask_ratio=ratio)
    method = SimMIM(encoder=create_model("vit_b16"), **options)
    assert method.num_masked(blocks) == masked


OWN = {"backbone.relative_positions": "own", "backbone.layer_scale": 0.1}
SHARED = {"backbone.relative_positions": "shared", "backbone.positions": "none"}


LEARNED = {"block_size": 16, "backbone.positions": "learned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes", "shape"),
    [
        pytest.param("vit", {**OWN, "block_size": 16}, (32, 64, 1), marks=pytest.mark.exhaustive),
        ("vit", {**SHARED, "target": "hog"}, (48, 24, 5)),
        pytest.param("swin", LEARNED, (64, 96, 5), marks=pytest.mark.exhaustive),
        ("cmt", {}, (64, 96, 3)),  # its stem's convolutions overlap across the edges of blocks
    ],
)
def test_masked_pixels_do_not_reach_the_prediction(family, changes, shape):
    method = tiny(family, **changes)
    images = jax.random.normal(jax.random.key(0), (2, *shape))
    noise = jax.random.uniform(jax.random.key(1), method.noise_shape(images.shape))
    keys = {"params": jax.random.key(2), "mask": jax.random.key(3)}

    variables = small.variables_of(method, keys, images)
    run = jax.jit(lambda images: method.apply(variables, images, noise=noise))
    cells = (shape[0] // method.block_size, shape[1] // method.block_size)
    count = method.num_masked(cells[0] * cells[1])
    blocks = (np.asarray(noise).argsort(1).argsort(1) >= cells[0] * cells[1] - count).reshape(2, *cells)
    masked = upsample(blocks, images)
    out, again = run(images), run(jnp.where(masked, images + 5, images))
    np.testing.assert_array_equal(out.prediction, again.prediction)
    np.testing.assert_array_equal(out.encoder_input, np.where(masked, 0, images))
    np.testing.assert_array_equal(upsample(out.mask, images), masked)
    np.testing.assert_array_equal(out.loss_weight, out.mask)
    assert not np.asarray(out.thrown).any() and float(again.loss) != float(out.loss)
    error = np.abs(np.asarray(out.prediction) - out.target).mean(-1)
    assert float(out.loss) == pytest.approx(error[np.asarray(out.mask) > 0].mean(), rel=1e-5)
    visible_changed = run(jnp.where(masked, images, images + 1))
    assert (np.abs(np.asarray(visible_changed.prediction) - out.prediction) > 0).any()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"positions": "sine"}, "unknown positions 'sine'; choose from: none, fixed, learned"),
        ({"relative_positions": "yes"}, "unknown relative_positions 'yes'; choose from: none, shared, own"),
    ],
)
def test_unknown_positions_are_refused(changes, told):
    method = tiny(**{f"backbone.{key}": value for key, value in changes.items()})
    with pytest.raises(ValueError, match=told):
        jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


PUBLISHED = {  # (parameters, masked blocks); our ViT has biases of keys, the published one has none
    "vit_b16": (86_256_720 + 12 * 768, 30),
    "swin_b": (89_874_104, 22),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_published_models_have_the_published_number_of_parameters(variant):
    config = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "simmim.py"))["get_config"](variant)
    run = make_pretrain_stage(config, 1_281_167, jax.devices()[:1])
    count, num_masked = PUBLISHED[variant]
    assert count_parameters(run.abstract.params) == count
    assert run.plan.num_masked == num_masked and run.plan.total_epochs == pytest.approx(800, abs=0.01)
    assert (run.plan.peak_lr, run.plan.warmup_lr) == pytest.approx((4e-4, 2e-6))
