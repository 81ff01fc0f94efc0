import jax
import numpy as np
import published
import pytest
import small
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.names import to_ours, to_theirs

CASE = published.load("fastmim_vit")[0]["hog_norm1"]
WEIGHTS = published.weights(CASE["shapes"], 0)


def test_there_and_back_keeps_every_bit():
    back = to_theirs(to_ours(WEIGHTS, "fastmim_vit"), "fastmim_vit")
    assert set(back) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(back[name], value)


def test_covers_exactly_the_parameters_of_the_model():
    method = small.published_method(CASE["config"])
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = jax.eval_shape(method.init, keys, np.zeros((1, 64, 64, 3), np.float32))["params"]
    ours = flatten_dict(to_ours(WEIGHTS, "fastmim_vit"), sep="/")
    expected = flatten_dict(shapes, sep="/")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("function", [to_ours, to_theirs])
def test_unknown_names_are_refused(function):
    with pytest.raises(UserError, match="1 names are not of the format 'fastmim_vit': surprise"):
        function({"surprise": np.zeros(1)}, "fastmim_vit")
