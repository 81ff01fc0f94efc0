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


# Forward GMACs by hand: 12 blocks of 12 N D^2 + 2 N^2 D with N tokens and cls, and the patches.
@pytest.mark.parametrize(("size", "gmacs"), [(224, 17.6), (192, 12.8), (160, 8.8), (128, 5.6), (96, 3.2)])
@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_vit_b16_has_the_published_gmacs(size, gmacs, layers):
    model = create_model("vit_b16", layers=layers)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert matrix_flops(model.apply, variables, images) / 2e9 == pytest.approx(gmacs, rel=0.01)


def test_peaks_are_known_by_kind():
    assert peak_flops("NVIDIA H200 SXM") == 989e12 and peak_flops("cpu") is None
