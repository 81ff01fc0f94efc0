"""Drop path: which branches are dropped, how often, and that nothing else changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_model
from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.cmt import CMTBlock
from fastmim_jax.models.convnext import ConvNeXtBlock
from fastmim_jax.models.convolution import DepthwiseConv
from fastmim_jax.models.pvt_v2 import PVTBlock
from fastmim_jax.models.stack import Stack, drop_path_rates, residual
from fastmim_jax.models.swin import SwinBlock
from helpers import initial, small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

TINY = {
    family: {key: x for key, x in sizes.items() if x is not None}
    for family, sizes in {
        **small.TINY,
        "mixmim": dict(small.TINY["swin"], name="mixmim_b"),
        "vit": dict(name="vit_ti16", width=16, depth=5, heads=2),
    }.items()
}


def tiny(family, **options):
    sizes = dict(TINY[family], **options)
    return create_model(sizes.pop("name"), **sizes)


class Factors(nn.Module):
    """Puts the factors of its two branches in place of the last axis: (B, 2) -> (B, 2)."""

    num_branches = 2

    @nn.compact
    def __call__(self, x, *, scales=(None, None)):
        return jnp.stack(scales, axis=1)


def factors(rates, batch, key):
    """(blocks, batch, branches), as a Stack gives them to its blocks."""
    stack = Stack(Factors, len(rates), {}, drop_path=rates)
    drawn = stack.apply({}, jnp.zeros((batch, 2)), rngs={"drop_path": key}, method="outputs")
    return np.stack(drawn)


def test_rates_grow_linearly_through_all_stages():
    depths = (2, 2, 18, 2)
    rates = drop_path_rates(0.1, depths)
    assert tuple(map(len, rates)) == depths
    np.testing.assert_array_equal(np.concatenate(rates), np.linspace(0, 0.1, 24))
    assert drop_path_rates(0.3, (1,)) == ((0.0,),)


@pytest.mark.parametrize("family", TINY)
def test_every_backbone_gives_its_blocks_their_rates(family):
    model, images = tiny(family, drop_path=0.4), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    rates = []

    def watch(run, args, kwargs, context):
        if isinstance(context.module, Stack) and context.method_name == "_run":
            rates.append(context.module.drop_path)
        return run(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(model.init, jax.random.key(0), images)
    np.testing.assert_array_equal(np.concatenate(rates), np.linspace(0, 0.4, model.num_blocks))
    assert len(rates) == (1 if family == "vit" else 4)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_0_to_1_is_an_error(rate):
    with pytest.raises(ValueError, match=f"drop_path is {rate}, expected a probability"):
        jax.eval_shape(tiny("vit", drop_path=rate).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_samples_and_branches_are_dropped_each_by_itself():
    rates, batch = (0.0, 0.25, 0.5), 4096
    drawn = factors(rates, batch, jax.random.key(0))
    np.testing.assert_array_equal(drawn[0], 1)
    for rate, of_block in zip(rates[1:], drawn[1:], strict=True):
        values = np.unique(of_block)
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-6)
        # Four standard errors of a share of so many draws.
        error = 4 * np.sqrt(rate * (1 - rate) / batch)
        np.testing.assert_allclose((of_block == 0).mean(0), rate, atol=error)
    dropped = (drawn[1:] == 0).transpose(0, 2, 1).reshape(4, batch)  # by block and branch
    together = np.corrcoef(np.concatenate([dropped, np.roll(dropped, 1, axis=1)]))
    assert np.abs(together - np.eye(8)).max() < 4.5 / np.sqrt(batch)  # of 28 pairs


def test_the_mean_over_many_keys_is_the_branch_itself():
    rate, keys = 0.4, jax.random.split(jax.random.key(2), 256)
    x = jax.random.normal(jax.random.key(0), (16, 2, 2, 8))
    stack = Stack(ConvNeXtBlock, 2, dict(layer_scale=1.0), drop_path=(0.0, rate))
    variables = initial.variables(stack, jax.random.key(1), x)

    @jax.jit
    def outcomes(keys):
        before, plain = stack.apply(variables, x, method="outputs")
        dropped = lambda key: stack.apply(variables, x, rngs={"drop_path": key})  # noqa: E731
        return before, plain, jax.vmap(dropped)(keys)

    before, plain, found = outcomes(keys)
    branch = np.asarray(plain - before)
    share = ((found - before) * branch).sum((2, 3, 4)) / np.square(branch).sum((1, 2, 3))
    # A factor 0 or 1 / (1 - rate) has the variance rate / (1 - rate).
    assert abs(share.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / share.size)
    assert share.mean(0).std() < 0.1 and share.std() > 0.5


@pytest.mark.parametrize("family", sweep(TINY, ["swin", "cmt"]))
def test_without_a_generator_or_a_rate_the_program_is_the_same(family):
    plain, dropping = tiny(family), tiny(family, drop_path=0.5)
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(plain.init, key, images)

    def program(model, generators):
        def run(variables, images, key):
            return model.apply(variables, images, rngs={name: key for name in generators}).tokens

        return jax.jit(run).lower(variables, images, key).as_text()

    expected = program(plain, [])
    assert program(dropping, []) == program(plain, ["drop_path"]) == expected
    assert program(dropping, ["drop_path"]) != expected


def without(block):
    """Return x after a block of a kind whose branches are both dropped."""
    if block != "cmt":
        return lambda params, x: x
    local = DepthwiseConv()
    return lambda params, x: x + local.apply({"params": params["local"]}, x)


BLOCKS = {
    "vit": (TransformerBlock(2), ()),
    "scaled vit": (TransformerBlock(2, layer_scale=0.5), ()),
    "swin": (SwinBlock(2, (2, 2), (1, 1)), ()),
    "pvt_v2": (PVTBlock(2, 2), ()),
    "cmt": (CMTBlock(2, 2), (jnp.zeros((1, 2, 16, 4)),)),
    "convnext": (ConvNeXtBlock(1.0), ()),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_multiplies_every_branch_of_a_sample_by_its_factor(name):
    block, shared = BLOCKS[name]
    x = jax.random.normal(jax.random.key(0), (4, 16, 8) if "vit" in name else (4, 4, 4, 8))
    keep = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], np.float32)[: block.num_branches]

    @jax.jit
    def outcomes(keep):
        variables = initial.variables(block, jax.random.key(1), x, *shared)
        left = without(name)(variables["params"], x)
        return (
            left,
            block.apply(variables, x, *shared),
            block.apply(variables, x, *shared, scales=tuple(keep)),
        )

    left, whole, found = outcomes(keep)
    for sample, of_sample in enumerate(keep.T):
        for other, is_equal in ((left, not of_sample.any()), (whole, of_sample.all())):
            difference = np.abs(found[sample] - other[sample]).max()
            assert difference < 1e-5 if is_equal else difference > 1e-3


def test_scan_and_remat_drop_the_same_and_learn_the_same():
    model = tiny("vit", drop_path=0.5, depth=3)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    variables = initial.variables(model, jax.random.key(1), images)
    rngs = {"drop_path": jax.random.key(2)}

    def outcome(module):
        loss = lambda v: jnp.square(module.apply(v, images, rngs=rngs).tokens[:, 0]).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables)

    expected = outcome(model)
    for how in (dict(layers="scanned"), dict(remat="full"), dict(remat="dots", layers="scanned")):
        # Tolerances as without drop path (test_layers).
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
            outcome(model.clone(**how)),
            expected,
        )


@pytest.mark.exhaustive
def test_blocks_of_two_kinds_are_scanned_with_their_own_factors():
    """Every second block of a Swin is shifted; the third stage has one more than pairs."""
    model = tiny("swin", drop_path=0.5, depths=(1, 4, 3, 1), window=2, width=8)
    images = jax.random.normal(jax.random.key(0), (4, 32, 64, 3))
    variables = initial.variables(model, jax.random.key(1), images)

    @jax.jit
    def outcomes(variables, key):
        models = model, model.clone(layers="scanned"), model.clone(layers="scanned", remat="full")
        return [module.apply(variables, images, rngs={"drop_path": key}).tokens for module in models]

    first, *others = outcomes(variables, jax.random.key(2))
    for other in others:
        np.testing.assert_allclose(first, other, atol=1e-5)


def test_a_sample_dropped_in_every_block_is_left_as_it_is_and_teaches_nothing():
    rates, key = (0.6, 0.7), jax.random.key(3)
    x = jax.random.normal(jax.random.key(0), (32, 5, 8))
    stack = Stack(TransformerBlock, 2, dict(heads=2), drop_path=rates)
    variables = initial.variables(stack, jax.random.key(1), x)
    dropped = (factors(rates, 32, key) == 0).all((0, 2))
    assert 0 < dropped.sum() < 32

    @jax.jit
    def outcomes(variables, x):
        def loss(variables, x, counted):
            y = stack.apply(variables, x, rngs={"drop_path": key})
            return (y * counted[:, None, None]).sum(), y

        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return grad(variables, x, dropped), grad(variables, x, ~dropped)

    (of_dropped, y), (of_others, _) = outcomes(variables, x)
    np.testing.assert_array_equal(y[dropped], x[dropped])
    assert (np.abs(y - x).max((1, 2)) > 1e-3)[~dropped].all()
    np.testing.assert_array_equal(of_dropped[1][dropped], 1)
    for leaf in jax.tree.leaves(of_dropped[0]):
        np.testing.assert_array_equal(leaf, 0)
    kernels = [of_others[0]["params"][block]["mlp"]["fc1"]["kernel"] for block in "01"]
    assert all(np.abs(kernel).max() > 0 for kernel in kernels)


def test_a_bfloat16_branch_is_divided_in_float32():
    branch = jnp.full((1, 2, 2), 3.0, jnp.bfloat16)
    found = residual(jnp.zeros_like(branch), branch, jnp.array([1 / 0.9], jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.bfloat16(3.0 / 0.9))
