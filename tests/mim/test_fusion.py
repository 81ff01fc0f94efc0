"""Fusion of encoder layers (MFF): its definition, and every method that has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.mim.fusion import LayerFusion
from fastmim_jax.models.base import EncoderOutput
from helpers import initial, small
from helpers.sweeps import sweep


def test_layers_are_projected_and_summed_with_the_softmax_of_the_weights():
    random = np.random.default_rng(0)
    outputs = [
        EncoderOutput(*(random.normal(size=(2, n, 4)).astype(np.float32) for n in (5, 1))) for _ in range(4)
    ]
    weights = np.array([0.3, -1, 2], np.float32)
    kernels, biases = random.normal(size=(2, 4, 4)), random.normal(size=(2, 4))
    params = {"layer_weights": weights}
    for kernel, bias, number in zip(kernels, biases, (1, 2), strict=True):
        params[f"block_{number}"] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    found = LayerFusion((1, 2, 3)).apply({"params": params}, outputs)
    shares = np.exp(weights) / np.exp(weights).sum()
    for part in range(2):
        expected = shares[2] * outputs[3][part]
        for index in range(2):
            expected = expected + shares[index] * (
                outputs[index + 1][part] @ kernels[index] + biases[index]
            )
        np.testing.assert_allclose(found[part], expected, atol=1e-5)


METHODS = {"fastmim": lambda config: config, "mae": small.mae, "simmim": small.simmim}


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(METHODS, ["mae"]))
def test_one_fused_layer_is_the_method_itself(name):
    config = METHODS[name](small.config())
    plain = create_method(config.method)
    config.method.fuse_layers = (2,)
    fused = create_method(config.method)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    keys = {"params": jax.random.key(2), "mask": jax.random.key(3)}
    variables = initial.variables(plain, keys, images)
    params = {**variables["params"], "fuse": {"layer_weights": jnp.ones(1)}}
    noise = jax.random.uniform(jax.random.key(1), (2, 16))
    out = jax.jit(fused.apply)({"params": params}, images, noise=noise)
    expected = jax.jit(plain.apply)(variables, images, noise=noise)
    np.testing.assert_allclose(out.prediction, expected.prediction, atol=1e-5)
