"""Patch features of every family of backbones, by shape alone: nothing is compiled."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax import create_model
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS, choose_layers, layer_grids
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

SHALLOW = {
    "vit_ti16": {"depth": 2},
    **dict.fromkeys(("swin_t", "pvt_v2_b2", "cmt_s", "convnext_t", "mixmim_b")),
}


@pytest.mark.parametrize("name", sweep(SHALLOW, ["vit_ti16", "swin_t", "convnext_t"]))
def test_grids_of_an_image_that_is_not_square(name):
    model, size = create_model(name, **(SHALLOW[name] or {"depths": (1, 1, 1, 1)})), (128, 192)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct(image.shape, jnp.float32)
    )
    layers = choose_layers(model.layer_names)
    numbers = {layer: model.layer_names.index(layer) for layer in layers}

    def normalize(images, flip):
        return images.astype(jnp.float32)

    program = partial(layer_grids, model=model, normalize=normalize, numbers=numbers)
    grids = jax.eval_shape(program, variables, image)
    assert set(grids) == {*layers, COLORS}
    for layer in layers:
        _, rows, columns, _ = grids[layer].shape
        assert rows * 3 == columns * 2 and size[0] % rows == 0 and grids[layer].dtype == jnp.float32
    finest = max(grids[layer].shape[1] for layer in layers)
    assert grids[COLORS].shape == (1, finest, finest * 3 // 2, 9)
    assert grids[layers[-1]].shape[1] * model.stride == size[0]
