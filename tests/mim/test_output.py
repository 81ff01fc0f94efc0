"""Outputs of every method have the documented shapes and are float32, whatever the computation is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.mim.output import Output
from helpers import small

SIZE = (64, 96)


def tiny(name):
    config = small.config().method
    config.update(name=name, dtype="bfloat16", target="pixel", block_size=8 if name == "mae" else 32)
    if name == "mixmim":
        config.backbone = dict(name="mixmim_b", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))
    return create_method(config)


@pytest.mark.parametrize("name", ["fastmim", "mae", "mixmim", "simmim"])
def test_shapes_and_dtypes(name):
    method = tiny(name)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    out, _ = jax.eval_shape(method.init_with_output, keys, images)
    assert type(out) is Output
    stride = method.output_stride
    grid = (SIZE[0] // stride, SIZE[1] // stride)
    assert out.loss.shape == () and out.encoder_input.shape == images.shape
    assert out.prediction.shape == out.target.shape == (2, *grid, stride * stride * 3)
    assert out.mask.shape == out.loss_weight.shape == out.thrown.shape == (2, *grid)
    assert {x.dtype for x in out} == {np.dtype(np.float32)}
