"""Initial parameters without a program of their own: each is computed by itself.

A program for all of them takes seconds to compile; here those of one shape share a small one, in one test
and the next. test_state.py compares the values with those of the program.
"""

import jax
import numpy as np
import pytest
from flax.core.scope import Scope
from jax.extend.core import Literal, jaxpr_as_fun

from fastmim_jax.train.compilation import announced


def create_state(init, abstract, seed):
    """Return what `train.state.create_state` returns, to rounding."""
    key = jax.random.key(seed)
    with announced("the initial parameters"):
        state = _evaluated(lambda: init(key))
    # A copy of each: the state is donated.
    return jax.tree.map(lambda x, leaf: jax.device_put(np.array(x), leaf.sharding), state, abstract)


def variables(module, *args, **options):
    """Return what `module.init` returns, to rounding."""
    return _evaluated(lambda: module.init(*args, **options))


def _evaluated(init):
    """Return init(): the parameters are computed one by one, and the forward pass is only traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scope, "param", _with_values(Scope.param))
        patch.setattr(Scope, "make_rng", _with_keys(Scope.make_rng))
        traced, shapes = jax.make_jaxpr(init, return_shape=True)()
    values = jaxpr_as_fun(_without_forward(traced))()
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


def _with_values(param):
    """`Scope.param`, which computes a parameter where the rest is only traced."""

    def computed(scope, name, init_fn, *args, **options):
        def value(key, *args, **options):
            if isinstance(key, jax.core.Tracer):  # inside of remat
                return init_fn(key, *args, **options)
            with jax.ensure_compile_time_eval():
                return init_fn(key, *args, **options)

        return param(scope, name, value, *args, **options)

    return computed


def _with_keys(make_rng):
    """`Scope.make_rng`, which computes a key where the rest is only traced."""

    def computed(scope, name="params"):
        if name not in scope.rngs or isinstance(scope.rngs[name].rng, jax.core.Tracer):
            return make_rng(scope, name)
        with jax.ensure_compile_time_eval():
            return make_rng(scope, name)

    return computed


def _without_forward(traced):
    """Return the program without what its results do not need."""
    needed, kept = _variables(traced.jaxpr.outvars), []
    for equation in reversed(traced.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= _variables(equation.invars)
            kept.append(equation)
    return traced.replace(jaxpr=traced.jaxpr.replace(eqns=kept[::-1]))


def _variables(atoms):
    return {x for x in atoms if not isinstance(x, Literal)}
