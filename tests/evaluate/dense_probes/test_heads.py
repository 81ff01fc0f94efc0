"""The linear head of dense probes and its tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fastmim_jax.evaluate.dense_probes.heads import DenseHeads
from fastmim_jax.evaluate.dense_probes.tasks import (
    DepthTask,
    SegmentationTask,
    add_counts,
    depth_sums,
)


@pytest.fixture(scope="module")
def trained():
    """Heads trained on features that tell the class of a cell, and on one that diverges."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (4, 4, 6))
    features = np.eye(3)[mask] * 5 + rng.normal(0, 0.1, (4, 4, 6, 3))
    features = np.concatenate([features, rng.normal(100, 3, (4, 4, 6, 2))], -1).astype(np.float32)
    target = np.kron(mask, np.ones((1, 2, 2), int)).astype(np.int32)
    target[0] = -1
    heads = DenseHeads(SegmentationTask(3), 60, rates=(1e-6, 0.1))
    state = heads.init(5)
    for _ in range(60):
        state = heads.update(state, jnp.asarray(features), jnp.asarray(target))
    return heads, state, features, target


@pytest.mark.slow
def test_it_learns_classes_of_cells(trained):
    heads, state, features, target = trained
    assert int(state.step) == 60 and state.params[0].shape == (2, 5, 3)
    counts = np.asarray(heads.count(state, features, target))
    assert counts.shape == (2, 3, 3) and counts[0].sum() == 3 * 8 * 12  # ignored pixels count nowhere
    accuracy = [np.diag(of_rate).sum() / of_rate.sum() for of_rate in counts]
    assert accuracy[1] > 0.8 and accuracy[1] > accuracy[0]
    predicted = heads.predict(state, features, (8, 12), 1)
    assert predicted.shape == (4, 8, 12) and (np.asarray(predicted) == target)[1:].mean() == accuracy[1]


@pytest.mark.slow
def test_statistics_are_those_of_the_batches(trained):
    _, state, features, _ = trained
    np.testing.assert_allclose(state.mean, features.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.variance, features.var((0, 1, 2)), rtol=1e-4)


def test_upsampling_is_bilinear_between_the_centres_of_cells():
    grid = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    found = jax.image.resize(grid, (12, 16), "bilinear", antialias=False)
    rows, columns = (((np.arange(4 * n) + 0.5) / 4 - 0.5).clip(0, n - 1) for n in grid.shape)
    along_rows = np.stack([np.interp(rows, range(3), column) for column in grid.T], 1)
    expected = np.stack([np.interp(columns, range(4), row) for row in along_rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)  # as align_corners=False of PyTorch


def test_ignored_pixels_change_no_loss():
    task = SegmentationTask(2)
    raw = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 2)))
    target = jnp.asarray([[[0, -1], [1, -1]]])
    expected = optax.softmax_cross_entropy_with_integer_labels(raw[:, :, 0], target[:, :, 0]).mean()
    assert float(task.loss(raw, target)) == pytest.approx(float(expected))
    assert float(task.loss(raw, jnp.full((1, 2, 2), -1))) == 0


def test_depth_scores():
    predicted = jnp.asarray([[[1.0, 2.0]], [[4.0, 9.0]], [[1.0, 1.0]]])
    depth = jnp.asarray([[[1.0, 4.0]], [[5.0, 1.0]], [[1.0, 1.0]]])
    known = jnp.asarray([[[True, True]], [[True, False]], [[False, False]]])
    found = np.asarray(depth_sums(predicted, depth, known))
    np.testing.assert_allclose(found, [0.5 + 0, np.sqrt(2) + 1, 0.25 + 0.2, 2], rtol=1e-6)
    task = DepthTask(10.0)
    assert task.summarize(found)["d1"] == pytest.approx(0.25)
    assert np.isnan(task.summarize(np.zeros(4))["rmse"])


@pytest.mark.slow
def test_depth_loss_is_scale_invariant_in_part():
    task = DepthTask(10.0)
    target = jnp.asarray([[[10_000, 20_000, -1, 900_000]]])  # 1 m, 2 m, unknown, beyond the largest
    raw = jnp.asarray([[[-2.0, -1.0, 3.0, 4.0]]])[..., None]
    error = np.log([1.0, 2.0]) - np.log(np.asarray(task.predict(raw))[0, 0, :2])
    assert float(task.loss(raw, target)) == pytest.approx(
        np.sqrt((error**2).mean() - error.mean() ** 2 / 2)
    )
    assert np.isfinite(jax.grad(lambda x: task.loss(x, jnp.full((1, 1, 4), -1)))(raw)).all()


@pytest.mark.slow
def test_it_learns_depths_of_cells():
    heads, features = DenseHeads(DepthTask(5.0), 60, rates=(1e-6, 0.1)), jnp.eye(2)[None, None]
    target = jnp.asarray([[[10_000, -1, -1, 40_000]]])
    state = heads.init(2)
    for _ in range(60):
        state = heads.update(state, features, target)
    counts = np.asarray(heads.count(state, features, target))
    assert counts.shape == (2, 4) and counts[0, 0] < counts[1, 0] == counts[1, 3] == 1


def test_sums_are_exact():
    total = None
    for _ in range(3):
        total = add_counts(total, np.array([2**31 - 1], np.int32))
    assert total.dtype == np.int64 and total[0] == 3 * (2**31 - 1)
