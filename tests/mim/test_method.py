"""The base class of methods: numbers of masked blocks, noise and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.mim.mask_noise import arrange_noise
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.mixmim import MixMIM
from fastmim_jax.mim.simmim import SimMIM
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.zoo import create_model

ENCODER = create_model("vit_b16", width=8, depth=1, heads=2)


def create(block_size=16, mask_ratio=0.75, encoder=ENCODER):
    return Method(encoder=encoder, target=Pixels(), block_size=block_size, mask_ratio=mask_ratio)


@pytest.mark.parametrize(
    ("blocks", "ratio", "masked"),
    [
        (196, 0.75, 147),
        (49, 0.75, 37),  # 12.25 visible
        (64, 0.6, 39),  # 25.6 visible
        (10, 0.9, 10),  # 10 * (1 - 0.9) is just below 1, as in the published code
        (4, 0.0, 0),
    ],
)
def test_visible_blocks_are_rounded_down(blocks, ratio, masked):
    assert create(mask_ratio=ratio).num_masked(blocks) == masked


@pytest.mark.parametrize(("block_size", "blocks"), [(16, 24), (32, 6), (8, 96)])
def test_there_is_one_number_of_noise_per_block(block_size, blocks):
    assert create(block_size).noise_shape((3, 64, 96, 1)) == (3, blocks)


def test_the_output_grid_is_never_coarser_than_the_tokens():
    assert [create(size).output_stride for size in (8, 16, 32)] == [8, 16, 16]
    assert create(32, encoder=create_model("swin_t")).output_stride == 32


def test_blocks_with_the_most_noise_are_masked():
    method, shape = create(16), (2, 64, 96, 3)
    noise = jax.random.uniform(jax.random.key(0), method.noise_shape(shape))
    mask = np.asarray(method.mask_blocks(noise, shape))
    assert mask.shape == (2, 4, 6) and mask.dtype == bool
    for values, masked in zip(np.asarray(noise), mask.reshape(2, -1), strict=True):
        assert masked.sum() == method.num_masked(24) == 18
        assert values[masked].min() > values[~masked].max()
    np.testing.assert_array_equal(method.mask_blocks(noise, shape), mask)
    assert (mask[0] != mask[1]).any()


def test_noise_comes_from_the_mask_stream():
    method, images = create(), jnp.zeros((2, 64, 96, 3))

    def draw(mask, params=0):
        keys = {"mask": jax.random.key(mask), "params": jax.random.key(params)}
        return np.asarray(method.apply({}, images, rngs=keys, method="draw_noise"))

    noise = draw(1)
    assert noise.shape == (2, 24) and noise.min() >= 0 and noise.max() < 1 and noise.std() > 0.1
    np.testing.assert_array_equal(draw(1, params=5), noise)
    assert (draw(2) != noise).all()


def test_coarse_masks_round_the_number_of_squares():
    options = dict(target=Pixels(), block_size=16, mask_ratio=0.6, mask_grid=2)
    mixmim = MixMIM(encoder=create_model("swin_t"), decoder={}, **options)
    methods = Method(encoder=ENCODER, **options), SimMIM(encoder=ENCODER, **options), mixmim
    # Of 4 squares, 1.6 visible ones are rounded down, 2.4 masked ones up (SimMIM) or down (MixMIM).
    assert [method.num_masked(16) for method in methods] == [12, 12, 8]


@pytest.mark.slow
def test_drawn_noise_has_the_colour_of_the_method():
    method, images = create().clone(mask_noise="green"), jnp.zeros((2, 64, 96, 3))
    keys = {"mask": jax.random.key(1)}
    white = create().apply({}, images, rngs=keys, method="draw_noise")
    green = method.apply({}, images, rngs=keys, method="draw_noise")
    np.testing.assert_array_equal(green, arrange_noise(white, (4, 6), "green"))
    assert (green != white).any()
