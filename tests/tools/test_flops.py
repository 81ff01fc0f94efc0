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


def test_one_branch_counts():
    def product(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: (x + 1) @ x)

    assert matrix_flops(product, jnp.zeros((5, 5))) == 2 * 5**3
    assert matrix_flops(jax.vmap(product), jnp.zeros((3, 5, 5))) == 3 * 2 * 5**3


def test_gradients_remat_and_loops_of_fixed_length():
    w, x = jnp.zeros((5, 5)), jnp.zeros((2, 5))
    product = 2 * 2 * 5 * 5

    def layer(w, x):
        return jnp.tanh(x @ w)

    def loss(w, x, layer):
        return layer(w, layer(w, x)).sum()

    def gradient(layer):
        return jax.value_and_grad(lambda w: loss(w, x, layer))

    # 2 products forward, 2 for the kernel and 1 for the input of the second layer.
    assert matrix_flops(gradient(layer), w) == 5 * product
    assert matrix_flops(gradient(jax.checkpoint(layer)), w) == 7 * product  # remat recomputes 2

    def loop(w, x):
        return jax.lax.fori_loop(0, 9, lambda turn, x: layer(w, x), x)

    assert matrix_flops(loop, w, x) == 9 * product
    with pytest.raises(NotImplementedError, match="while"):
        matrix_flops(lambda w, x, n: jax.lax.fori_loop(0, n, lambda turn, x: layer(w, x), x), w, x, 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_ti16", "swin_t"])
def test_scanned_layers_count_as_much_as_unrolled_ones(name):
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    counts = []
    for layers in ("unrolled", "scanned"):
        model = create_model(name, layers=layers)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        counts.append(matrix_flops(model.apply, variables, images))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peak_of_a_device_kind(kind, tflops):
    assert peak_flops(kind) == (tflops and tflops * 1e12)
