"""Biases by relative position against the plain lookup, and their gradients on several devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fastmim_jax.models.attention import RelativePositionBias
from fastmim_jax.models.position_bias import (
    add_cls,
    device_copies,
    relative_position_bias,
    repeat_rows,
    split_by_device,
)
from fastmim_jax.train.sharding import make_mesh

GRID, HEADS = (3, 5), 2
CELLS = GRID[0] * GRID[1]


def make_table(seed=0):
    shape = (2 * GRID[0] - 1, 2 * GRID[1] - 1, HEADS)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def plain(table):
    """Look the bias up in the table, as published code does."""
    rows, columns = (np.subtract.outer(axis.ravel(), axis.ravel()) for axis in np.indices(GRID))
    return jnp.moveaxis(table[rows + GRID[0] - 1, columns + GRID[1] - 1], -1, 0)


def test_equals_the_lookup_to_the_bit():
    table = make_table()
    np.testing.assert_array_equal(relative_position_bias(table, GRID), plain(table))
    np.testing.assert_array_equal(
        relative_position_bias(jnp.stack([table, -table]), GRID), [plain(table), plain(-table)]
    )


@pytest.mark.slow
def test_gradient_equals_that_of_the_lookup():
    table = make_table()
    weights = np.random.default_rng(1).standard_normal((HEADS, CELLS, CELLS)).astype(np.float32)
    ours, theirs = (
        jax.grad(lambda table, f=f: (f(table) * weights).sum())(table)
        for f in (lambda table: relative_position_bias(table, GRID), plain)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_cls_comes_first():
    table, cls_table = make_table(), jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    params = {"relative_position_bias_table": table, "cls_relative_position_bias": cls_table}
    (bias,) = RelativePositionBias(HEADS).apply({"params": params}, jnp.zeros(GRID), 4)
    np.testing.assert_array_equal(bias, add_cls(relative_position_bias(table, GRID), cls_table))
    np.testing.assert_array_equal(bias[:, 1:, 1:], plain(table))
    for head, entries in enumerate(np.asarray(cls_table).T):
        to_patch, from_patch, to_itself = entries
        assert np.all(bias[head, 0, 1:] == to_patch) and np.all(bias[head, 1:, 0] == from_patch)
        assert bias[head, 0, 0] == to_itself


def scores_with_bias(table, images):
    """Return scores (R, B/R, heads, N, N) of images (B, N), with the bias of a table."""
    bias = relative_position_bias(device_copies(table, len(images)), GRID)
    scores = images[:, None, :, None] * images[:, None, None, :]
    return jnp.sin(split_by_device(scores, len(bias)) + bias[:, None])


def loss(table, images):
    return (scores_with_bias(table, images) ** 2).mean()


def test_rows_are_repeated_in_a_row():
    np.testing.assert_array_equal(repeat_rows(jnp.asarray([[1], [2]]), 4), [[1], [1], [2], [2]])


def test_without_a_mesh_there_is_one_copy():
    assert device_copies(make_table(), 8).shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_only_the_gradient_of_the_table_crosses_devices(fsdp):
    images = jnp.asarray(np.random.default_rng(2).standard_normal((16, CELLS)), jnp.float32)
    table = make_table()
    expected = jax.grad(loss)(table, images)
    mesh = make_mesh(fsdp, jax.devices()[:4])
    batch, replicated = (NamedSharding(mesh, s) for s in (PartitionSpec(("data", "fsdp")), PartitionSpec()))
    with jax.set_mesh(mesh):
        assert device_copies(table, 16).shape[0] == 4
        assert device_copies(table, 6).shape[0] == 1
        gradient = jax.jit(jax.grad(loss), in_shardings=(replicated, batch), out_shardings=replicated)
        compiled = gradient.lower(table, images).compile()
    np.testing.assert_allclose(compiled(table, images), expected, rtol=1e-4, atol=1e-6)
    reduced = re.findall(r"= (.*?) (?:all-reduce|all-gather|reduce-scatter)", compiled.as_text())
    assert reduced
    assert not [shape for shape in reduced if f"{CELLS},{CELLS}" in shape]
