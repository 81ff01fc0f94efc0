"""Resampling of position tables: against the published code, and what must hold of any scheme."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.models.mixmim import MixMIMEncoder
from fastmim_jax.models.positions import sincos_positions
from fastmim_jax.models.resample import (
    FASTMIM_BOUNDS,
    SIMMIM_BOUNDS,
    apply_matrices,
    bicubic,
    flat_relative_position,
    geometric,
    resample,
    resampling_matrices,
    second_moment_matrices,
)
from helpers import published

NUMBERS = published.load("resample")[1]
RANDOM = np.random.default_rng(0)
TABLE = "stages_0/blocks/0/attn/relative_position_bias_table"


def cases(kind):
    return [name for name in NUMBERS if name.startswith(kind)]


def square(table):
    """(side * side, heads) -> (side, side, heads)."""
    side = math.isqrt(len(table))
    return table.reshape(side, side, -1)


def source_and_result(name):
    window = name.split(".")[-1].split("_")[0]
    return square(NUMBERS[f"rpb.in.{window}"]), square(NUMBERS[name])


def bicubic_tolerance(source):
    """PyTorch rounds positions to float32: up to source * 2^-24 off, at slopes below 1; sums add 1e-6.

    Observed: 7e-7 of 27 entries, 8e-6 of 256; with rounded positions both are 4e-7.
    """
    return 1e-6 + source * 2**-24


@pytest.mark.parametrize("stage", [0, 3])
def test_mixmims_tables_are_resampled_as_published(stage):
    x, expected = (square(NUMBERS[f"mixmim.{side}.{stage}"]) for side in ("in", "out"))
    ours = resample(TABLE, x, expected.shape, MixMIMEncoder.resampling)
    np.testing.assert_allclose(ours, expected, atol=bicubic_tolerance(len(x)))
    assert np.abs(resample(TABLE, x, expected.shape) - expected).max() > 1e-2  # the usual scheme differs


def test_mixmims_fixed_positions_are_resampled_as_published():
    before, after = (square(NUMBERS[f"mixmim.{side}.positions"][0]) for side in ("in", "out"))
    np.testing.assert_allclose(sincos_positions(*before.shape), before, atol=1e-6)
    model = MixMIMEncoder(width=16, depths=(1,) * 4, heads=(1,) * 4, position_grid=before.shape[:2])
    zeros = jnp.zeros((1, *after.shape))
    ours = model.apply({}, zeros, method=lambda module, x: module.position(x))[0]
    np.testing.assert_allclose(ours, after, atol=bicubic_tolerance(len(before)))


@pytest.mark.parametrize("name", [*cases("rpb.simmim."), *cases("rpb.simmim_code.")])
def test_geometric_tables_equal_published(name):
    x, expected = source_and_result(name)
    bounds = SIMMIM_BOUNDS if "simmim_code" in name else FASTMIM_BOUNDS
    matrix = geometric(len(x), len(expected), bounds)
    # 2e-6: float32 values below 1, with absolute weights that add up to 23; observed 4e-7.
    np.testing.assert_allclose(apply_matrices((matrix, matrix, None), x), expected, atol=2e-6)
    if bounds == FASTMIM_BOUNDS:
        np.testing.assert_allclose(resample(TABLE, x, expected.shape), expected, atol=2e-6)


@pytest.mark.parametrize("name", cases("rpb.interpolate."))
def test_bicubic_tables_equal_published(name):
    x, expected = source_and_result(name)
    matrix = bicubic(len(x), len(expected))
    atol = bicubic_tolerance(len(x))
    np.testing.assert_allclose(apply_matrices((matrix, matrix, None), x), expected, atol=atol)


@pytest.mark.parametrize("name", cases("cmt.in."))
def test_flat_relative_positions_equal_published(name):
    x, expected = NUMBERS[name], NUMBERS[name.replace(".in.", ".out.")]
    ours = flat_relative_position(x, expected.shape)
    np.testing.assert_allclose(ours, expected, atol=bicubic_tolerance(x.shape[1]))


@pytest.mark.parametrize("name", cases("pos.g"))
def test_positions_equal_published_beside_the_cls_token(name):
    x = NUMBERS[f"pos.in.{name.split('.')[1].split('_')[0]}"]
    np.testing.assert_array_equal(x[:, 0], NUMBERS[name][:, 0])
    x, expected = (square(tokens[0, 1:]) for tokens in (x, NUMBERS[name]))
    atol = bicubic_tolerance(len(x))
    np.testing.assert_allclose(resample("pos_embed", x, expected.shape), expected, atol=atol)
    batched = resample("encoder/pos_embed", x[None], (1, *expected.shape))
    np.testing.assert_allclose(batched[0], expected, atol=atol)


SIZES = [(7, 13), (13, 7), (3, 9), (5, 27), (1, 5), (9, 1)]


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("scheme", [bicubic, geometric])
def test_constants_stay_constants(scheme, source, target):
    matrix = scheme(source, target)
    assert matrix.shape == (target, source) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)


def test_equal_sizes_are_left_alone():
    np.testing.assert_array_equal(bicubic(6, 6), np.eye(6))
    # The ratio is found to 1e-6, and the last of six steps moves by some ten times that.
    np.testing.assert_allclose(geometric(13, 13), np.eye(13), atol=2e-5)
    x = np.ones((3, 5, 2), np.float32)
    assert resample(TABLE, x, (3, 5, 2)) is x


@pytest.mark.parametrize(("source", "target"), [(8, 14), (14, 8), (16, 64)])
def test_bicubic_bends_ramps_only_as_its_kernel_does(source, target):
    places = (np.arange(target) + 0.5) * source / target - 0.5
    inside = (places >= 1) & (places < source - 2)
    assert inside.sum() > 2
    # A kernel of coefficient a is (2a + 1) t(1-t)(2t-1) off a ramp at t between two pixels: nothing only
    # for a = -0.5, and up to 0.05 of a step for PyTorch's -0.75.
    t = places % 1
    expected = places - 0.5 * t * (1 - t) * (2 * t - 1)
    ramp = bicubic(source, target) @ np.arange(source)
    np.testing.assert_allclose(ramp[inside], expected[inside], atol=1e-12)


@pytest.mark.parametrize("bounds", [FASTMIM_BOUNDS, SIMMIM_BOUNDS])
@pytest.mark.parametrize(("source", "target"), [(7, 13), (13, 7), (13, 27)])
def test_geometric_treats_both_directions_alike(source, target, bounds):
    matrix = geometric(source, target, bounds)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(matrix[target // 2], np.eye(source)[source // 2], atol=1e-12)


def test_geometric_repeats_the_border_beyond_its_source():
    # With steps of at most 1, 1.5 and 2.25 the source ends at 4.75, the target at 6.
    matrix = geometric(7, 13, SIMMIM_BOUNDS)
    np.testing.assert_allclose(matrix[[0, 1, -2, -1]], np.eye(7)[[0, 0, -1, -1]], atol=1e-12)


def test_rectangular_tables_up_and_down():
    rows, columns = np.linspace(-1, 1, 7), np.linspace(-1, 1, 13)
    x = np.stack([rows[:, None] + 0 * columns, rows[:, None] * columns], -1).astype(np.float32)
    resized = jax.jit(lambda x: resample(TABLE, x, (13, 7, 2)))(x)
    assert resized.shape == (13, 7, 2) and resized.dtype == jnp.float32
    np.testing.assert_allclose(resized[..., 0], resized[:, :1, 0].repeat(7, 1), atol=1e-6)  # of rows only
    np.testing.assert_allclose(resized[..., 1], -resized[::-1, :, 1], atol=1e-6)  # antisymmetric
    matrices = resampling_matrices(TABLE, (7, 13, 2), (13, 13, 2))
    assert matrices[1] is None and matrices[2] is None


@pytest.mark.slow
def test_relative_positions_of_queries_and_keys_are_resampled_as_grids():
    x = np.broadcast_to(RANDOM.normal(size=(3, 4)).astype(np.float32)[:, :, None, None], (2, 3, 4, 2, 2))
    resized = resample("stages_1/relative_position", x, (2, 6, 6, 3, 2))
    grid = resample("pos_embed", x[0, :, :, :1, 0], (6, 6, 1))
    np.testing.assert_allclose(resized[1, :, :, 2, 1], grid[..., 0], atol=1e-6)


SHAPES = [
    (TABLE, (7, 5, 3), (13, 9, 3)),
    (TABLE, (13, 9, 3), (5, 3, 3)),
    ("relative_position", (2, 4, 4, 2, 2), (2, 6, 8, 3, 4)),
    ("pos_embed", (1, 8, 6, 4), (1, 5, 12, 4)),
]


@pytest.mark.parametrize(("name", "source", "target"), SHAPES)
def test_second_moments_keep_adam_bounded(name, source, target):
    matrices = resampling_matrices(name, source, target)
    positive = second_moment_matrices(matrices)
    given = [matrix for matrix in positive if matrix is not None]
    assert len(given) == sum(matrix is not None for matrix in matrices) > 0
    for matrix in given:
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    mean = RANDOM.normal(size=source).astype(np.float32)
    square = np.square(mean) * RANDOM.uniform(1, 3, source).astype(np.float32)

    @jax.jit
    def resampled(mean, square):
        return apply_matrices(matrices, mean), apply_matrices(positive, square)

    mean, square = resampled(mean, square)
    gain = math.prod(np.abs(matrix).sum(1).max() for matrix in matrices if matrix is not None)
    assert (np.asarray(square) >= 0).all()
    assert (np.abs(mean) <= gain * np.sqrt(square) * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("name", "source", "target", "told"),
    [
        (TABLE, (7, 7, 3), (13, 13, 4), "axis 2 is not an axis of a grid"),
        (TABLE, (6, 7, 3), (13, 7, 3), "from 6 to 13 entries along an axis, expected odd"),
        ("attn/qkv/kernel", (4, 12), (8, 12), "no rule to resample 'attn/qkv/kernel'"),
        ("pos_embed", (17, 8), (50, 8), "no rule"),
        ("pos_embed", (4, 4, 8), (1, 7, 7, 8), "no rule"),
    ],
)
def test_what_no_rule_covers_is_refused(name, source, target, told):
    with pytest.raises(ValueError, match=told):
        resampling_matrices(name, source, target)
