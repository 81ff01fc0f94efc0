"""FastMIM over every backbone against the published code, and its own properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.fastmim import FastMIM
from fastmim_jax.mim.targets.hog import HOG
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.vit import ViT
from helpers import initial, published, small
from helpers.sweeps import sweep

FAMILIES = {name: published.load(f"fastmim_{name}") for name in small.BACKBONES}
CASES = [(family, name) for family, (cases, _) in FAMILIES.items() for name in cases]
# Targets, norms and blocks do not depend on the backbone: ViT covers them, the others what is their own.
KEPT = [
    *(("vit", name) for name in ("hog_block32", "hog_nodec", "hog_patch32_block16")),
    ("vit", "l2_norm1"),
    ("swin", "hog_norm1"),
    ("pvtv2", "l2_block16"),
    ("cmt", "hog_norm1"),
]


def forward_and_gradients(family, name):
    cases, numbers = FAMILIES[family]
    case, table = cases[name], f"fastmim_{family}"
    method = small.published_method(family, case)
    weights = published.weights(cases, name)
    if (family, name) == ("pvtv2", "l2_block16"):
        weights = outputs_by_pixel(weights, case["config"]["block_size"], method.encoder.stride)
    variables = to_ours(weights, table)
    statistics = {key: tree for key, tree in variables.items() if key != "params"}
    changing = list(statistics) if case["train_mode"] else []
    side = case["config"].get("img_size", 64)
    images = published.images(case["seed"], case["batch"], side, side)

    @jax.jit
    def loss_and_gradients(params, images):
        return jax.value_and_grad(loss, has_aux=True)(params, images)

    def loss(params, images):
        variables = {"params": params, **statistics}
        out, after = method.apply(variables, images, noise=numbers[f"{name}/noise"], mutable=changing)
        return out.loss, (out, after)

    (_, (out, after)), grads = loss_and_gradients(variables["params"], images)
    return method, out, after, to_theirs({"params": grads}, table)


def outputs_by_pixel(weights, block, stride):
    """Return the weights of a published PVT v2, the last layer's outputs in our order: by pixel of a token.

    If blocks are smaller than tokens, and only then, the published order is (row, column, channel) inside a
    block, then (row, column) of the block.
    """
    parts = stride // block
    published_order = np.arange(stride * stride * 3).reshape(block, block, 3, parts, parts)
    index = published_order.transpose(3, 0, 4, 1, 2).ravel()
    last = ("decoder_pred.weight", "decoder_pred.bias")
    return {**weights, **{name: weights[name][index] for name in last}}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), sweep(CASES, KEPT))
def test_equals_published(family, name):
    case, numbers = FAMILIES[family][0][name], FAMILIES[family][1]
    method, out, after, grads = forward_and_gradients(family, name)
    published.assert_equal(case, out, grads)
    if f"{name}/prediction" in numbers:
        ours, theirs = on_one_grid(method, out.prediction, numbers[f"{name}/prediction"])
        # Observed 2.8e-5 for CMT (batch norms), 5.4e-6 for the others.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 if family == "cmt" else 2e-5)


def on_one_grid(method, ours, theirs):
    """Return two predictions (B, h, w, P), the coarser one split to the grid of the other.

    Published predictions are stored by token, by block or by HOG cell; of pixels, some store 1 in 16.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    image = ours.shape[1] * min(method.block_size, method.encoder.stride)
    parts = theirs.shape[1] / ours.shape[1]
    if parts > 1:
        ours = np.asarray(method.target.split(ours, int(parts), image // ours.shape[1]))
    elif parts < 1:
        theirs = np.asarray(method.target.split(theirs, int(1 / parts), image // theirs.shape[1]))
    return ours[..., :: ours.shape[-1] // theirs.shape[-1]], theirs


def method(block=16, patch=16, ratio=0.75, target=None):
    encoder = ViT(patch_size=patch, width=16, depth=1, heads=2)
    options = dict(block_size=block, mask_ratio=ratio, decoder=dict(width=32, depth=1))
    return FastMIM(encoder=encoder, target=target or HOG(), **options)


def run(module, images, noise=None):
    """Return (initial variables, Output of them)."""
    keys = {"params": jax.random.key(0), "mask": jax.random.key(2)}
    variables = initial.variables(module, keys, images, noise=noise)
    rngs = {"mask": keys["mask"]}
    return variables, jax.jit(lambda x: module.apply(variables, x, noise=noise, rngs=rngs))(images)


@pytest.mark.slow
def test_masked_pixels_do_not_reach_the_encoder():
    images = jax.random.normal(jax.random.key(3), (2, 64, 64, 3))
    noise = jax.random.uniform(jax.random.key(4), (2, 16))
    module = method()
    variables, out = run(module, images, noise)
    masked = (np.asarray(out.mask) > 0).repeat(16, 1).repeat(16, 2)[..., None]
    changed = jnp.where(masked, images + 5, images)
    apply = jax.jit(module.apply)
    out, again = (apply(variables, x, noise=noise) for x in (images, changed))
    np.testing.assert_array_equal(out.prediction, again.prediction)
    np.testing.assert_array_equal(out.encoder_input, again.encoder_input)
    token = variables["params"]["mask_token"]
    np.testing.assert_array_equal(
        np.asarray(out.encoder_input)[masked[..., 0]], np.broadcast_to(token, (2 * 12 * 256, 3))
    )


TARGETS = [HOG(), Pixels(), Pixels(False)]
SIZES = [(32, 16, (64, 96), 1), (16, 32, (32, 64), 5), (8, 16, (96, 160), 3)]
PAIRS = [(target, *sizes) for target in TARGETS for sizes in SIZES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "block", "patch", "shape", "channels"), sweep(PAIRS, [PAIRS[0], PAIRS[4], PAIRS[8]])
)
def test_any_shape_channels_blocks_and_target(target, block, patch, shape, channels):
    images = jax.random.normal(jax.random.key(0), (2, *shape, channels))
    _, out = run(method(block, patch, 0.5, target), images)
    side = min(block, patch) if block < patch else patch
    grid = (shape[0] // side, shape[1] // side)
    assert out.prediction.shape == out.target.shape == (2, *grid, target.values(side, channels))
    assert out.mask.shape == (2, *grid) and np.asarray(out.mask).mean() == 0.5
    expected = np.mean(np.square(np.asarray(out.prediction - out.target))[np.asarray(out.mask) > 0])
    np.testing.assert_allclose(out.loss, expected, rtol=1e-5)


@pytest.mark.slow
def test_without_noise_the_mask_follows_its_random_stream():
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    variables, out = run(method(), images)
    module = method()
    apply = jax.jit(module.apply)
    same = apply(variables, images, rngs={"mask": jax.random.key(2)})
    other = apply(variables, images, rngs={"mask": jax.random.key(3)})
    np.testing.assert_array_equal(out.mask, same.mask)
    assert (np.asarray(out.mask) != np.asarray(other.mask)).any()
