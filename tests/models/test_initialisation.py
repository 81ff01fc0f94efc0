"""Initial values as published: limits of the uniform ones, deviation of the normal ones."""

import jax
import numpy as np
import pytest

from fastmim_jax.export.formats.names import to_theirs
from helpers import published, small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", sweep(small.BACKBONES, ["vit", "swin"]))
def test_initial_values_have_the_published_statistics(family):
    case = published.load(f"fastmim_{family}")[0]["hog_norm1"]
    method = small.published_method(family, case)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    variables = jax.jit(method.init)(keys, np.zeros((1, 64, 64, 3), np.float32))
    ours = to_theirs(variables, f"fastmim_{family}")
    for name, expected in case["init"].items():
        if name not in ours:  # fixed tables, tested with the layers
            continue
        assert list(ours[name].shape) == expected["shape"], name
        draws, largest = ours[name].size, max(expected["max"], -expected["min"])
        if not expected["std"]:  # constants
            assert ours[name].std() == 0 and ours[name].mean() == expected["mean"], name
        elif draws >= 100 and largest < 1.8 * expected["std"]:
            # uniform: the extremes of n draws lie within 1/n of the limits
            slack = 15 * largest / (draws + 10)
            assert abs(ours[name].max() - expected["max"]) < slack, name
            assert abs(ours[name].min() - expected["min"]) < slack, name
        elif draws > 10:  # four standard errors of both deviations
            assert abs(ours[name].std() / expected["std"] - 1) < 8 / np.sqrt(2 * draws), name
