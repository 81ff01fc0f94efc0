import jax
import numpy as np
import published
import pytest
import small
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.names import to_ours, to_theirs

FAMILIES = list(small.BACKBONES)


def case_and_weights(family):
    cases, _ = published.load(f"fastmim_{family}")
    return cases["hog_norm1"], published.weights(cases, "hog_norm1")


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_keeps_every_bit(family):
    weights = case_and_weights(family)[1]
    table = f"fastmim_{family}"
    back = to_theirs(to_ours({**weights, "some.attn_mask": np.zeros(3)}, table), table)
    assert set(back) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_covers_exactly_the_variables_of_the_model(family):
    case, weights = case_and_weights(family)
    method = small.published_method(family, case)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = jax.eval_shape(method.init, keys, np.zeros((1, 64, 64, 3), np.float32))
    ours = flatten_dict(to_ours(weights, f"fastmim_{family}"), sep="/")
    expected = flatten_dict(shapes, sep="/")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("direction", ["ours", "theirs"])
def test_unknown_names_are_refused(direction):
    with pytest.raises(UserError, match="1 names are not of the format 'fastmim_vit': surprise"):
        if direction == "ours":
            to_ours({"surprise": np.zeros(1)}, "fastmim_vit")
        else:
            to_theirs({"params": {"surprise": np.zeros(1)}}, "fastmim_vit")
