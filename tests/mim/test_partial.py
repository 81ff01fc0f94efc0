"""Partial reconstruction over its three hosts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax import create_method
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.fill import InverseDistance, Nearest, NeighbourSum, Progressive
from fastmim_jax.mim.mae import MAE
from fastmim_jax.mim.partial import PartialReconstruction, decode_all
from helpers import initial, small
from helpers.sweeps import sweep

# host -> (its config, masked tokens of an image, of them thrown at a ratio of 0.5, its key table)
HOSTS = {
    "mae": (lambda: small.mae(small.config()), 12, 8, "mae_vit"),
    "fastmim": (small.config, 12, 8, "fastmim_vit"),
    "mixmim": (lambda: _mixmim(), 4, 4, "mixmim"),  # of 9 cells, 2 in either stream
}
CHOICES = [
    {"sampler": "lattice", "fill": "nearest"},
    {},
    {"aggregate": "decoded", "stages": 3},
]


def keys():
    return {"params": jax.random.key(1), "mask": jax.random.key(2)}


def _mixmim():
    config = small.mixmim(small.config())
    config.data.image_size, config.method.groups = (96, 96), 2
    return config


def build(host, **partial):
    config = HOSTS[host][0]()
    config.method.partial.update(partial)
    return create_method(config.method), jax.random.normal(
        jax.random.key(0), (4, *config.data.image_size, 3)
    )


def run(method, images, params=None):
    """Return (parameters, random unless given; Output; gradients), with the same noise every time."""
    noise = jax.random.uniform(jax.random.key(3), method.noise_shape(images.shape))
    params = params or small.variables_of(method, keys(), images)["params"]
    return params, *small.forward_and_gradients(method, params, images, noise)


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_parameters_survive_export_and_import(host):
    method, images = build(host, throw_ratio=0.5)
    params = small.variables_of(method, keys(), images)
    theirs = to_theirs(params, HOSTS[host][-1])
    assert "decoder_fill.2.kernel" in theirs
    jax.tree.map(np.testing.assert_array_equal, to_ours(theirs, HOSTS[host][-1]), params)


@pytest.mark.slow
@pytest.mark.parametrize("host", sweep(HOSTS, ["mae", "fastmim"]))
def test_counts_loss_and_gradients(host):
    method, images = build(host, throw_ratio=0.5, thrown_weight=0.25)
    _, out, grads = run(method, images)
    _, num_masked, num_thrown, table = HOSTS[host]
    mask, thrown = np.asarray(out.mask) > 0, np.asarray(out.thrown) > 0
    assert (mask.sum((1, 2)) == num_masked).all() and (thrown.sum((1, 2)) == num_thrown).all()
    counts = np.ones_like(mask) if host == "mixmim" else mask
    assert not (thrown & ~counts).any()
    np.testing.assert_array_equal(out.loss_weight, np.where(thrown, 0.25, 1.0) * counts)
    errors = np.square(np.asarray(out.prediction - out.target)).mean(-1)
    assert float(out.loss) == pytest.approx(
        np.average(errors, weights=np.asarray(out.loss_weight)), rel=1e-5
    )
    for path, grad in flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all() and (np.abs(grad).max() > 0), path


@pytest.mark.slow
def test_throwing_nothing_gives_the_host_method():
    for host in HOSTS:
        assert build(host)[0].reconstruct is decode_all
        method, _ = build(host, throw_ratio=0.5)
        assert isinstance(method.reconstruct, PartialReconstruction)
    # A share of less than one token throws none: the same parameters, loss and gradients to the bit.
    method, images = build("mae")

    def initialised(method):
        return run(method, images, initial.variables(method, keys(), images)["params"])

    expected, actual = initialised(method), initialised(build("mae", throw_ratio=0.01)[0])
    jax.tree.map(np.testing.assert_array_equal, expected, actual)


@pytest.mark.slow
def test_decoded_tokens_are_predicted_as_if_thrown_ones_did_not_exist():
    """Compare with MAE's own decoder on the visible and the decoded tokens alone."""
    method, images = build("mae", throw_ratio=0.5, fill="none", sampler="random")
    params, out, _ = run(method, images)
    mask, thrown = np.asarray(out.mask) > 0, np.asarray(out.thrown) > 0
    decoded = mask & ~thrown

    class Only(MAE):
        """MAE whose decoder is given only the visible and decoded tokens, in row-major order."""

        def decode(self, decoder, tokens, prefix, mask, num_masked, noise):
            ids_keep = np.stack([np.flatnonzero(~row) for row in thrown.reshape(len(thrown), -1)])
            rows = tokens.reshape(len(tokens), -1, tokens.shape[-1])
            rows = jnp.take_along_axis(rows, ids_keep[..., None], axis=1)
            x = decoder.head(decoder.transform(rows, prefix))
            full = jnp.zeros((*rows.shape[:1], 16, x.shape[-1])).at[np.arange(4)[:, None], ids_keep].set(x)
            weight = jnp.asarray(1.0 - thrown, jnp.float32)
            return full.reshape(*mask.shape, -1), weight, 1 - weight

    fields = {name: getattr(method, name) for name in ("encoder", "target", "mask_ratio", "decoder")}
    by_hand = Only(block_size=8, **fields)
    by_hand = by_hand.clone(reconstruct=by_hand.decode)
    _, plain, _ = run(by_hand, images, params)
    np.testing.assert_allclose(np.asarray(out.prediction)[decoded], plain.prediction[decoded], atol=1e-5)
    assert float(out.loss) == pytest.approx(float(plain.loss), rel=1e-6)
    assert not np.asarray(out.prediction)[thrown].any() and not np.asarray(out.loss_weight)[thrown].any()


@pytest.mark.slow
@pytest.mark.parametrize("choice", sweep(CHOICES, CHOICES[:1]), ids=str)
def test_gradients_of_thrown_tokens_reach_the_encoder(choice):
    """With a weight that leaves the loss to the thrown tokens alone."""
    method, images = build("mae", throw_ratio=0.5, thrown_weight=1e6, **choice)
    _, out, grads = run(method, images)
    for path in ("encoder/blocks/0/mlp/fc1/kernel", "decoder/blocks/0/attn/qkv/kernel", "mask_token"):
        assert np.abs(flatten_dict(grads, sep="/")[path]).max() > 1e-6, path
    assert (np.abs(np.asarray(out.prediction)).max(-1)[np.asarray(out.mask) > 0] > 0).all()


@pytest.mark.slow
def test_a_fill_is_initialised_as_the_mean_of_the_observed_neighbours():
    """Stage 1 fills the cells next to observed ones, stage 2 those next to stage 1."""
    observed = np.zeros((1, 3, 4), bool)
    observed[0, :, 0] = True
    x = jnp.where(observed[..., None], jnp.arange(1.0, 4)[None, :, None, None], 7e3) * jnp.ones(
        (1, 3, 4, 8)
    )
    stage = np.array([[[0, 1, 2, 0]] * 3])
    module = Progressive(2, radius=1)
    variables = initial.variables(module, jax.random.key(0), x, observed, stage)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[-1].key == "thrown_token" else leaf, variables
    )
    filled = np.asarray(module.apply(variables, x, observed, stage))[..., 0][0]
    near, far = np.exp(-0.5), np.exp(-1)
    first = [(near + 2 * far) / (near + far), 2.0, (3 * near + 2 * far) / (near + far)]
    np.testing.assert_allclose(filled[:, 0], [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(filled[:, 1], first, rtol=1e-5)
    np.testing.assert_allclose(filled[0, 2], (near * first[0] + far * first[1]) / (near + far), rtol=1e-5)
    np.testing.assert_array_equal(filled[:, 3], 7e3)  # in no stage: unchanged


@pytest.mark.slow
def test_unobserved_features_do_not_reach_a_fill():
    observed = np.random.default_rng(0).random((2, 5, 6)) < 0.3
    stage = np.where(observed, 0, 1)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 8))
    for module in (Progressive(1, radius=1), Progressive(1, radius=2), Nearest(), InverseDistance()):
        variables = initial.variables(module, jax.random.key(1), x, observed, stage)
        fill = jax.jit(
            lambda x, module=module, variables=variables: module.apply(variables, x, observed, stage)
        )
        poisoned = jnp.where(observed[..., None], x, jnp.nan)
        if isinstance(module, Progressive):
            np.testing.assert_array_equal(fill(x), fill(poisoned))
        else:
            np.testing.assert_allclose(fill(x), fill(jnp.where(observed[..., None], x, 9.0)), atol=1e-6)


@pytest.mark.slow
def test_cells_without_observed_neighbours_get_the_learned_token():
    x, observed = jnp.ones((1, 3, 3, 8)), np.zeros((1, 3, 3), bool)
    module = NeighbourSum(1)
    variables = initial.variables(module, jax.random.key(0), x, observed)
    token = variables["params"]["thrown_token"]
    np.testing.assert_array_equal(module.apply(variables, x, observed), jnp.broadcast_to(token, x.shape))


@pytest.mark.slow
def test_means_of_the_nearest_observed_cells():
    observed = np.zeros((1, 1, 5), bool)
    observed[0, 0, [0, 3]] = True
    x = jnp.arange(5.0)[None, None, :, None] * jnp.ones((1, 1, 5, 2))
    stage = np.where(observed, 0, 1)
    nearest = Nearest().apply({}, x, observed, stage)[0, 0, :, 0]
    assert nearest.tolist() == [0, 0, 3, 3, 3]
    mean = InverseDistance().apply({}, x, observed, stage)[0, 0, :, 0]
    np.testing.assert_allclose(mean, [0, 3 * 0.25 / 1.25, 3 * 1 / 1.25, 3, 3 / (1 + 1 / 16)], rtol=1e-6)
