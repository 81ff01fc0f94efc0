"""Times of kernels by class, from a trace of the CPU."""

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.tools.hlo import CLASSES
from fastmim_jax.tools.profile import kernel_classes, top_kernels, trace


def _function(x, w):
    with jax.named_scope("mlp"):
        y = jax.lax.erf(x @ w)
    with jax.named_scope("norm1"):
        y = y - y.mean(-1, keepdims=True)
        return y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)


@pytest.fixture(scope="module")
def trace_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trace")
    arguments = jnp.ones((256, 512)), jnp.ones((512, 512))
    compiled = jax.jit(_function).lower(*arguments).compile()
    trace(directory, compiled, lambda: [compiled(*arguments) for _ in range(2)])
    return directory


@pytest.mark.slow
def test_the_classes_of_a_small_program(trace_dir):
    classes = kernel_classes(trace_dir)
    assert {"products", "norm"} <= set(classes) <= set(CLASSES)
    assert all(seconds > 0 for seconds in classes.values())
    assert list(classes.values()) == sorted(classes.values(), reverse=True)


def test_the_top_kernels_sum_to_the_classes(trace_dir):
    kernels = top_kernels(trace_dir, 1000)
    assert sum(kernel.seconds for kernel in kernels) == pytest.approx(
        sum(kernel_classes(trace_dir).values())
    )
    assert top_kernels(trace_dir, 1) == kernels[:1]
    assert all(kernel.calls >= 1 for kernel in kernels)


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no trace"):
        kernel_classes(tmp_path)
