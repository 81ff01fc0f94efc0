"""The state of a run, created already sharded."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from fastmim_jax.train.sharding import state_shardings


@struct.dataclass
class TrainState:
    """Everything that an update changes.

    step: updates tried. collections: Flax variables other than parameters, such as batch_stats.
    skipped: updates left out because they were not finite; skipped_in_row: the latest of them.
    ema: moving averages of params and collections, {"params": ..., "collections": ...}; {} for none.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_row: jax.Array
    ema: Any = struct.field(default_factory=dict)

    def eval_variables(self):
        """The variables {"params": ..., ...} that evaluations look at: the averages, if there are any."""
        chosen = self.ema or {"params": self.params, "collections": self.collections}
        return {"params": chosen["params"], **chosen["collections"]}


def initializer(model, optimizer_of, image_shape, averaged=False):
    """-> a pure function from a key to a TrainState.

    Args:
      model: a pre-training method or a classifier, a Flax module.
      optimizer_of: the parameters (or their shapes) -> an optax transformation.
      image_shape: (H, W, C).
      averaged: whether moving averages are kept.
    """

    def init(key):
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = model.init({"params": key, "mask": key}, images)
        return begin(variables, optimizer_of, averaged)

    return init


def begin(variables, optimizer_of, averaged=False):
    """The TrainState before the first update; arguments as of `initializer`."""
    params, collections = variables["params"], {k: x for k, x in variables.items() if k != "params"}
    zero = jnp.zeros((), jnp.int32)
    ema = {"params": params, "collections": collections} if averaged else {}
    opt_state = optimizer_of(params).init(params)
    return TrainState(zero, params, collections, opt_state, zero, zero, ema)


def abstract_state(init, mesh):
    """The state as ShapeDtypeStructs that carry their shardings: what to create, restore or plan."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def create_state(init, abstract, seed):
    """The initial state; no device ever holds more than its shards."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def count_parameters(params):
    """Number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
