"""The state of a run, created already sharded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from fastmim_jax.train.compilation import announced
from fastmim_jax.train.sharding import state_shardings

OptimizerOf = Callable[[Any], optax.GradientTransformation]


@struct.dataclass
class TrainState:
    """Everything that an update changes.

    Attributes:
      step: number of updates, skipped ones included.
      collections: Flax variables other than parameters, such as batch_stats.
      skipped: number of updates skipped because they were not finite.
      skipped_in_row: number of skipped updates since the last that was not.
      ema: moving averages of params and collections, {"params": ..., "collections": ...}; {} for none.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    skipped: jax.Array
    skipped_in_row: jax.Array
    ema: Any = struct.field(default_factory=dict)

    def eval_variables(self) -> dict[str, Any]:
        """Return the variables {"params": ..., ...} to evaluate: the averages, if there are any."""
        trees = self.ema or {"params": self.params, "collections": self.collections}
        return {"params": trees["params"], **trees["collections"]}


@dataclasses.dataclass(frozen=True, eq=False)
class Initializer:
    """A pure function from a key to the initial TrainState.

    Attributes:
      model: a pre-training method or a classifier, a Flax module.
      optimizer_of: the parameters (or their shapes) -> an optax transformation.
      image_shape: (H, W, C).
      with_ema: whether the state has moving averages.
    """

    model: nn.Module
    optimizer_of: OptimizerOf
    image_shape: tuple[int, int, int]
    with_ema: bool = False

    def __call__(self, key: jax.Array) -> TrainState:
        """Return the state before the first update."""
        return initial_state(self.variables(key), self.optimizer_of, self.with_ema)

    def variables(self, key: jax.Array) -> Any:
        """Return the variables {"params": ..., ...} of the model."""
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        return self.model.init({"params": key, "mask": key}, images)


def initial_state(
    variables: dict[str, Any], optimizer_of: OptimizerOf, with_ema: bool = False
) -> TrainState:
    """Return the TrainState before the first update; arguments: see `Initializer`."""
    params, collections = variables["params"], {k: x for k, x in variables.items() if k != "params"}
    zero = jnp.zeros((), jnp.int32)
    ema = {"params": params, "collections": collections} if with_ema else {}
    opt_state = optimizer_of(params).init(params)
    return TrainState(zero, params, collections, opt_state, zero, zero, ema)


def abstract_state(
    init: Callable[[jax.Array], TrainState],
    mesh: jax.sharding.Mesh,
    optimizer_axes: tuple[str, ...] = ("fsdp",),
) -> TrainState:
    """Return the state as ShapeDtypeStructs with shardings, from which it is created or restored.

    optimizer_axes: axes of the mesh that the optimizer state is split over, see `state_shardings`.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = state_shardings(shapes, mesh)
    optimizer = state_shardings(shapes.opt_state, mesh, optimizer_axes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        dataclasses.replace(shardings, opt_state=optimizer),
    )


def create_state(init: Callable[[jax.Array], TrainState], abstract: TrainState, seed: int) -> TrainState:
    """Return the initial state; no device ever holds more than its shards."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    with announced("the initial parameters"):
        return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def count_parameters(params: Any) -> int:
    """Return the number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
