"""Tests of the tests: small mistakes exceed the limits of `published.assert_equal`."""

import jax
import numpy as np
import pytest

from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.targets.pixels import Pixels
from helpers import published, small

pytestmark = pytest.mark.slow

CASES, NUMBERS = published.load("mae_vit")
NAME = "norm1_patch8_ratio60"  # 64 patches, of which 25.6 would be visible


class ChannelsFirst(Pixels):
    """Pixels in (channel, row, column) order."""

    def __call__(self, images, size):
        values = super().__call__(images, size)
        pixels = values.reshape(*values.shape[:3], size * size, -1)
        return pixels.swapaxes(-1, -2).reshape(values.shape)


def check(method, params=None):
    """Compare a method with a published MAE."""
    case, noise = CASES[NAME], NUMBERS[f"{NAME}/noise"]
    params = params or to_ours(published.weights(CASES, NAME), "mae_vit")["params"]
    images = published.images(case["seed"], case["batch"], 64, 64)
    out, grads = small.forward_and_gradients(method, params, images, noise)
    published.assert_equal(case, out, to_theirs({"params": grads}, "mae_vit"))


def refused(method, params=None):
    with pytest.raises(AssertionError, match="published"):
        check(method, params)


@pytest.fixture
def method():
    return small.published_mae(CASES[NAME])


def test_the_method_itself_is_accepted(method):
    check(method)


def test_epsilon_of_the_decoders_norms(method):
    refused(method.clone(decoder={**method.decoder, "epsilon": 1e-5}))


def test_tanh_approximation_of_gelu(method, monkeypatch):
    monkeypatch.setattr("fastmim_jax.models.layers.gelu", gelu_tanh)
    refused(method)


def gelu_tanh(x):
    return jax.nn.gelu(x, approximate=True)


def test_mask_ratio_rounded_to_the_nearest(method, monkeypatch):
    monkeypatch.setattr(
        "fastmim_jax.mim.method.num_visible", lambda count, ratio: round(count * (1 - ratio))
    )
    refused(method)


@pytest.mark.parametrize("name", ["blocks.0.mlp.fc1.bias", "decoder_blocks.0.attn.proj.bias"])
def test_a_missing_bias(method, name):
    weights = published.weights(CASES, NAME)
    weights[name] = np.zeros_like(weights[name])
    refused(method, to_ours(weights, "mae_vit")["params"])


def test_order_of_the_targets_pixels(method):
    refused(method.clone(target=ChannelsFirst()))
