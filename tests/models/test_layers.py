import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.layers import PatchEmbed
from fastmim_jax.models.positions import make_positions, sincos_positions
from fastmim_jax.models.resample import resample
from fastmim_jax.models.stack import Stack
from helpers import initial, published

TABLES = published.load("positions")[1]


@pytest.mark.parametrize("name", TABLES)
def test_positions_equal_published(name):
    table = TABLES[name]
    cls = int(name[-1])
    side = int((len(table) - cls) ** 0.5)
    ours = sincos_positions(side, side, table.shape[1]).reshape(side * side, -1)
    np.testing.assert_allclose(ours, table[cls:], atol=1e-6)


def test_positions_of_a_wide_grid_tell_row_and_column():
    table = sincos_positions(2, 5, 16)
    np.testing.assert_array_equal(table[0, :, 8:], table[0, :1, 8:].repeat(5, 0))
    np.testing.assert_array_equal(table[:, 3, :8], table[:1, 3, :8].repeat(2, 0))


def test_patch_embedding_is_the_convolution_of_its_kernel():
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    module = PatchEmbed(8, 10)
    variables = initial.variables(module, jax.random.key(1), images)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(images, kernel, (8, 8), "VALID", dimension_numbers=dimensions)
    np.testing.assert_allclose(module.apply(variables, images), expected + bias, atol=1e-5)


def test_a_wrong_shape_or_dtype_fails_by_its_annotation():
    module = PatchEmbed(8, 10)
    for images in (jnp.zeros((16, 24, 3)), jnp.zeros((2, 16, 24, 3), jnp.int32)):
        with pytest.raises(TypeCheckError, match="images"):
            jax.eval_shape(module.init, jax.random.key(0), images)


def stack(**options):
    return Stack(TransformerBlock, 3, dict(heads=2), **options)


@pytest.mark.slow
def test_scan_and_remat_change_neither_parameters_nor_results():
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    plain = stack()
    variables = initial.variables(plain, jax.random.key(1), x)

    def outcome(module):
        loss = lambda v: jnp.square(module.apply(v, x)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(variables)

    expected = outcome(plain)
    for options in (
        dict(layers="scanned"),
        dict(remat="full"),
        dict(remat="dots", layers="scanned"),
    ):
        module = stack(**options)
        other = initial.variables(module, jax.random.key(1), x)
        jax.tree.map(np.testing.assert_array_equal, other, variables)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), outcome(module), expected
        )


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_outputs_are_those_of_each_block(layers):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    module = stack(layers=layers)
    variables = initial.variables(stack(), jax.random.key(1), x)
    outputs = module.apply(variables, x, method="outputs")
    assert len(outputs) == 3
    block = TransformerBlock(heads=2)
    for index, output in enumerate(outputs):
        x = block.apply({"params": variables["params"][str(index)]}, x)
        np.testing.assert_allclose(output, x, atol=1e-5)


@pytest.mark.slow
def test_scanned_layers_compile_to_one_block():
    x = jax.ShapeDtypeStruct((2, 5, 8), jnp.float32)

    def size(module):
        variables = jax.eval_shape(module.init, jax.random.key(1), x)
        return len(jax.jit(module.apply).lower(variables, x).as_text())

    def deep(layers):
        return Stack(TransformerBlock, 24, dict(heads=2), layers=layers)

    assert size(deep("scanned")) < size(deep("unrolled")) / 4


@pytest.mark.parametrize("name", ["fixed", "learned"])
def test_a_table_of_another_grid_is_resampled(name):
    module, x = make_positions(name, (4, 6)), jnp.zeros((1, 7, 9, 16))
    ours = jax.jit(module.apply)(initial.variables(module, jax.random.key(0), x), x)[0]
    expected = resample("pos_embed", sincos_positions(4, 6, 16), (7, 9, 16))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert np.abs(ours - sincos_positions(7, 9, 16)).max() > 0.1
    for grid in (None, (7, 9)):  # the image's own, as it is
        ours = make_positions(name, grid).init_with_output(jax.random.key(0), x)[0][0]
        np.testing.assert_array_equal(ours, sincos_positions(7, 9, 16))


def test_a_grid_without_cells_is_an_error():
    with pytest.raises(ValueError, match=r"position_grid is \(0, 14\), expected \(rows, columns\)"):
        make_positions("fixed", (0, 14))
