"""Initial parameters without a program of their own: each is computed by itself.

A program for all of them takes seconds to compile; here all share a few, in one test and the next.
test_state.py compares the values with those of the program.
"""

import math
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core.scope import Scope
from flax.linen import initializers
from jax._src import random as random_of_initializers
from jax.extend.core import Literal, jaxpr_as_fun

from fastmim_jax.train.compilation import announced
from fastmim_jax.train.state import abstract_state as programs_abstract_state
from fastmim_jax.train.state import initial_state

CONSTANT = {initializers.zeros: 0, initializers.ones: 1}


# By model, shape of its images and, of values, seed: tests have few models.
SHAPES, VALUES = {}, {}


def abstract_state(init, *args):
    """Return what `train.state.abstract_state` returns; the shapes of equal models are traced once."""
    known = repr(init.model), init.image_shape
    if known not in SHAPES:
        SHAPES[known] = jax.eval_shape(init.variables, jax.random.key(0))

    def light(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), SHAPES[known])
        return initial_state(zeros, init.optimizer_of, init.with_ema)

    return programs_abstract_state(light, *args)


def create_state(init, abstract, seed):
    """Return what `train.state.create_state` returns, to rounding; equal models share their values."""
    known, key = (repr(init.model), init.image_shape, seed), jax.random.key(seed)
    with announced("the initial parameters"):
        if known not in VALUES:
            values = _evaluated(lambda: init.variables(key))
            VALUES[known] = jax.tree.map(np.asarray, values)
        state = _state(VALUES[known], init)
    # A copy of each: the state is donated.
    return jax.tree.map(lambda x, leaf: jax.device_put(np.array(x), leaf.sharding), state, abstract)


def _state(values, init):
    """Return the state whose variables have these values: NumPy's arrays, of which nothing is computed."""
    own = ("params", "collections", "ema")
    found = {}

    def rest():
        state = initial_state(values, init.optimizer_of, init.with_ema)
        found.update({name: getattr(state, name) for name in own})
        return state.replace(**dict.fromkeys(own))

    return _evaluated(rest).replace(**found)


def variables(module, *args, **options):
    """Return what `module.init` returns, to rounding."""
    return jax.tree.map(jnp.asarray, _evaluated(lambda: module.init(*args, **options)))


def _evaluated(init):
    """Return init(): the parameters are computed one by one, and the forward pass is only traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scope, "param", _with_values(Scope.param))
        patch.setattr(Scope, "make_rng", _with_keys(Scope.make_rng))
        traced, shapes = jax.make_jaxpr(init, return_shape=True)()
    values = jaxpr_as_fun(_without_forward(traced))()
    return jax.tree.unflatten(jax.tree.structure(shapes), values)


class _Numbers(np.ndarray):
    """An array whose products with JAX's arrays are computed by NumPy, without a program for its shape."""

    __array_priority__ = 1000


@contextmanager
def _draws_of_few_sizes():
    """Let the programs of random numbers be of a few sizes: a number depends on its index alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("uniform", "normal"):
            draw = partial(_draw, getattr(jax.random, name))
            for module in (jax.random, random_of_initializers):
                patch.setattr(module, name, draw)
        yield


def _draw(draw, key, shape=(), *args, **options):
    count, size = math.prod(shape), 4096
    while size < count:
        size *= 8
    return np.asarray(draw(key, (size,), *args, **options))[:count].reshape(shape).view(_Numbers)


def _with_values(param):
    """`Scope.param`, which computes a parameter where the rest is only traced."""

    def computed(scope, name, init_fn, *args, **options):
        def value(key, *args, **options):
            if isinstance(key, jax.core.Tracer):  # inside of remat
                return init_fn(key, *args, **options)
            with jax.ensure_compile_time_eval(), _draws_of_few_sizes():
                if init_fn in CONSTANT and len(args) == 1:
                    return jax.device_put(np.full(args[0], CONSTANT[init_fn], np.float32))
                return jax.device_put(init_fn(key, *args, **options))

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
    """Return the program without what its results do not need; arrays of one number become constants."""
    jaxpr, consts = traced.jaxpr, list(traced.consts)
    needed, kept, constvars = _variables(jaxpr.outvars), [], list(jaxpr.constvars)
    for equation in reversed(jaxpr.eqns):
        if not needed.intersection(equation.outvars):
            continue
        if equation.primitive.name == "broadcast_in_dim" and not _variables(equation.invars):
            (variable,) = equation.outvars
            constvars.append(variable)
            consts.append(np.full(variable.aval.shape, equation.invars[0].val, variable.aval.dtype))
        else:
            needed |= _variables(equation.invars)
            kept.append(equation)
    return traced.replace(jaxpr=jaxpr.replace(constvars=constvars, eqns=kept[::-1]), consts=consts)


def _variables(atoms):
    return {x for x in atoms if not isinstance(x, Literal)}
