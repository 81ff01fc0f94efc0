"""Outputs of every method have the documented shapes and are float32, whatever the computation is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.mim.output import Output
from helpers import small
from helpers.sweeps import sweep

SIZE = (64, 96)


def tiny(name, scales=()):
    config = small.config().method
    dropping = name in ("mae", "crossmae", "localmim")
    config.update(name=name, dtype="bfloat16", target="pixel", block_size=8 if dropping else 32)
    if name == "mixmim":
        config.backbone = dict(name="mixmim_b", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))
    config.update(target_scales=scales, local_layers=(1, 2) if name == "localmim" else ())
    return create_method(config)


# Squares of several sizes, of pixels: of each, a token has its own values or those of the square around it.
SCALES = {"crossmae": (4, 8), "fastmim": (4, 16), "localmim": (4, 16), "mae": (8, 16), "mixmim": (8, 32)}
CASES = [(name, ()) for name in ("fastmim", "mae", "mixmim", "simmim")]
SCALED = sweep(list(SCALES.items()), [("localmim", SCALES["localmim"])], pytest.mark.slow)


@pytest.mark.parametrize(("name", "scales"), CASES + SCALED)
def test_shapes_and_dtypes(name, scales):
    method = tiny(name, scales)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    out, _ = jax.eval_shape(method.init_with_output, keys, images)
    assert type(out) is Output
    stride = method.output_stride
    grid = (SIZE[0] // stride, SIZE[1] // stride)
    values = sum(max(stride, scale) ** 2 * 3 for scale in scales or (stride,))
    assert out.loss.shape == () and out.encoder_input.shape == images.shape
    assert out.prediction.shape == out.target.shape == (2, *grid, values)
    assert out.mask.shape == out.loss_weight.shape == out.thrown.shape == (2, *grid)
    assert {x.dtype for x in out} == {np.dtype(np.float32)}
