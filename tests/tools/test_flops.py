import jax
import jax.numpy as jnp
import pytest

from fastmim_jax import create_model
from fastmim_jax.tools.flops import matrix_flops, peak_flops


def test_products_convolutions_and_scans():
    a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 6))
    assert matrix_flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6

    def conv(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert matrix_flops(conv, jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 7))) == 2 * 64 * 7 * 27

    def scanned(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    assert matrix_flops(jax.jit(scanned), jnp.zeros((2, 5)), jnp.zeros((7, 5, 5))) == 7 * 2 * 2 * 25


@pytest.mark.parametrize("name", ["vit_ti16", "swin_t"])
def test_scanned_layers_count_as_much_as_unrolled_ones(name):
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    counts = []
    for layers in ("unrolled", "scanned"):
        model = create_model(name, layers=layers)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        counts.append(matrix_flops(model.apply, variables, images))
    assert counts[0] == counts[1] > 0


def test_peaks_are_known_by_kind():
    assert peak_flops("NVIDIA H200 SXM") == 989e12 and peak_flops("cpu") is None
