"""Annotated shapes and dtypes are checked while tests run."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from fastmim_jax.mim.losses import masked_mse
from fastmim_jax.models.swin import window_partition
from fastmim_jax.models.typing import Array


def fits(array, annotation):
    return any(isinstance(array, kind) for kind in get_args(annotation))


@pytest.mark.parametrize("module", [np, jnp])
def test_arrays_of_both_libraries_fit(module):
    assert fits(module.zeros((2, 3), module.float32), Float[Array, "B N"])
    assert not fits(module.zeros((2, 3), module.float32), Float[Array, "B N D"])
    assert not fits(module.zeros((2, 3), module.int32), Float[Array, "B N"])


def test_a_list_is_no_array():
    assert not isinstance([[1.0]], Array)


def test_calls_with_other_shapes_are_refused():
    tokens, weight = jnp.zeros((2, 3, 4, 5)), jnp.ones((2, 3, 4))
    masked_mse(tokens, tokens, weight)
    with pytest.raises(TypeCheckError):
        masked_mse(tokens, tokens, weight[:, :2])
    with pytest.raises(TypeCheckError):
        masked_mse(tokens, tokens.astype(jnp.int32), weight)
    with pytest.raises(TypeCheckError):
        window_partition(jnp.zeros((4, 4)), (2, 2))
