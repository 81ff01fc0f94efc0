"""LocalMIM against the published code, and its own properties."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax import create_method
from fastmim_jax.mim.localmim import LocalMIM
from helpers import initial, later_methods, published, small

CASES, NUMBERS = published.load("localmim")
# The published layers of five blocks are 2, 4, 3 and 5: norms are counted so, decoders in order.
NORMS = {"0": "decoder_2/input_norm", "1": "decoder_4/input_norm", "2": "decoder_3/input_norm"}
NORMS["3"] = "encoder/norm"
HEADS = [
    {"0": "up_0", "1": "norm_1", "3": "up_1", "4": "linear"},
    {"0": "up_0", "1": "linear"},
    {"0": "linear"},
    {"1": "linear"},
]


def our_path(name):
    """Our path of a published array."""
    module, _, leaf = name.rpartition(".")
    if found := re.fullmatch(r"norm\.(\d)", module):
        return f"{NORMS[found[1]]}/{'scale' if leaf == 'weight' else leaf}"
    if found := re.fullmatch(r"decoder\.(\d)\.?(.*)", module):
        decoder, rest = f"decoder_{int(found[1]) + 2}", found[2].split(".")
        if leaf == "mask_token":
            return f"{decoder}/mask_tokens/mask_token"
        if rest[0] == "pred":
            rest[1] = HEADS[int(found[1])][rest[1]]
        kernel = "scale" if "norm" in rest[-1] else "kernel"
        return "/".join([decoder, *rest, kernel if leaf == "weight" else leaf])
    return later_methods.our_path(name)


def our_array(path, x):
    """A published array, as ours has its axes."""
    if x.ndim == 4:  # a transposed convolution has its inputs first
        return x.transpose((2, 3, 0, 1) if "/up_" in path else (2, 3, 1, 0))
    return x.T if path.endswith("kernel") else x


@pytest.mark.slow
def test_equals_published():
    case, weights = CASES["hog"], published.weights(CASES, "hog")
    layers = {"local_layers": (2, 3, 4, 5), "target_scales": (4, 8, 16, 32)}
    method = later_methods.method_of("localmim", case, target="hog", **layers)
    params = {our_path(name): our_array(our_path(name), x) for name, x in weights.items()}
    images = published.images(case["seed"], case["batch"], 64, 64)
    params = unflatten_dict(params, sep="/")
    out, grads = small.forward_and_gradients(method, params, images, NUMBERS["hog/noise"])
    grads = flatten_dict(grads, sep="/")
    assert set(grads) == set(map(our_path, weights))
    published.assert_equal(case, out, {name: grads[our_path(name)] for name in weights})
    np.testing.assert_array_equal(np.asarray(out.mask).reshape(4, 16), NUMBERS["hog/mask"])
    predicted = method.target.unpack(out.prediction, 16)
    assert [x.shape[1] for x in predicted] == [16, 8, 4, 2]
    third = np.asarray(predicted[2])[..., ::3].reshape(4, 16, -1)
    np.testing.assert_allclose(third, NUMBERS["hog/prediction"], rtol=0, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["hog", "pixel"])
def test_stages_of_a_pyramid_predict_and_masked_pixels_do_not_leak(target):
    config = small.over("convnext", small.config())
    config.method.update(name="localmim", target=target, block_size=16)
    config.method.update(local_layers=(2, 3, 4), target_scales=(4, 16, 32))
    method = create_method(config.method)
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    noise = jax.random.uniform(jax.random.key(1), (2, 16))
    variables = initial.variables(method, {"params": jax.random.key(2), "mask": jax.random.key(3)}, images)
    assert isinstance(method, LocalMIM)
    apply = jax.jit(method.apply)
    out = apply(variables, images, noise=noise)
    assert out.prediction.shape == out.target.shape == (2, 4, 4, method.target.values(16, 3))
    masked = np.asarray(out.mask > 0).repeat(16, 1).repeat(16, 2)[..., None]
    again = apply(variables, jnp.where(masked, images + 5, images), noise=noise)
    np.testing.assert_array_equal(again.prediction, out.prediction)
    assert [name for name in variables["params"] if name.startswith("decoder")] == [
        "decoder_2",
        "decoder_3",
        "decoder_4",
    ]
