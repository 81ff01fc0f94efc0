"""Gradients of a batch that is computed in micro-batches, summed over devices once for all of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from fastmim_jax.train.state import TrainState

DATA_AXIS = "data"  # of the mesh; devices along the other one share the parameters, and gather and sum them


def split_strided(batch: Any, parts: int) -> Any:
    """Return a tree of arrays (B, ...) as (parts, B / parts, ...).

    Micro-batches are strided, so that each is spread over the same devices as the batch.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def mean_gradients(
    loss_fn: Callable,
    state: TrainState,
    batch: Any,
    parts: int,
    into_parts: Callable[[Any, int], Any],
    key: jax.Array,
) -> tuple[jax.Array, Any, Any]:
    """Return the loss, the new collections and the gradients of a batch, computed in `parts` equal parts.

    With several parts, the images of each entry of DATA_AXIS are a shard. Shards sum the gradients of their
    own images, in float32, and these sums are added up once. Where `divides_evenly` is False, gradients
    are summed over all devices for every part.

    Args:
      loss_fn: (params, collections, part of the batch, rngs) -> loss, new collections. Inside
        `jax.shard_map` it returns the share of its images in the loss.
      batch: tree of arrays (B, ...).
      into_parts: (batch, parts) -> the same tree of arrays (parts, B / parts, ...).
      key: of the run.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), 1)  # not the key of the mask
    if parts == 1:
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, collections), grads = value_and_grad(state.params, state.collections, batch, _rngs(key))
        return loss, collections, grads
    inputs = into_parts(batch, parts)
    sum_gradients = (_sums_of_shards if divides_evenly(inputs) else _sums)(loss_fn)
    loss, collections, sums = sum_gradients(state.params, state.collections, inputs, key)
    return loss / parts, collections, jax.tree.map(lambda x: x.astype(jnp.float32) / parts, sums)


def divides_evenly(inputs: Any) -> bool:
    """Return whether there are shards, and micro-batches divide into them.

    Groups of MixMIM do not where there are more shards: an image and its partner are then in two of them.

    Args:
      inputs: tree of arrays (parts, rows, ...).
    """
    shards = dict(jax.sharding.get_abstract_mesh().shape).get(DATA_AXIS, 1)
    return shards > 1 and all(x.shape[1] % shards == 0 for x in jax.tree.leaves(inputs))


def _sums(loss_fn):
    """Return a function (params, collections, inputs, key) -> loss, collections, gradients: sums."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def sum_gradients(params, collections, inputs, key):
        def body(carry, numbered):
            total, collections, sums = carry
            index, part = numbered
            rngs = _rngs(jax.random.fold_in(key, index))
            (loss, collections), grads = value_and_grad(params, collections, part, rngs)
            return (total + loss, collections, optax.tree.add(sums, grads)), None

        carry = jnp.zeros(()), collections, optax.tree.zeros_like(params, dtype=jnp.float32)
        parts = len(jax.tree.leaves(inputs)[0])
        return jax.lax.scan(body, carry, (jnp.arange(parts), inputs))[0]

    return sum_gradients


def _sums_of_shards(loss_fn):
    """Return the function of `_sums`, whose loop runs on each shard of the batch by itself."""

    def on_shard(params, collections, inputs, key):
        loss, collections, sums = _sums(loss_fn)(params, collections, inputs, key)
        # In the dtype of the parameters: the caller has chosen it for sums over devices.
        sums = jax.tree.map(lambda total, param: total.astype(param.dtype), sums, params)
        return jax.tree.map(lambda x: x[None], (loss, sums)), collections

    def sum_gradients(params, collections, inputs, key):
        # An axis of one device is left to XLA's partitioner only if there is need of it.
        sizes = jax.sharding.get_abstract_mesh().shape
        alone = {axis for axis, size in sizes.items() if size == 1}
        split, full = PartitionSpec(DATA_AXIS), PartitionSpec()
        run = jax.shard_map(
            on_shard,
            in_specs=(full, full, PartitionSpec(None, DATA_AXIS), full),
            out_specs=(split, full),
            axis_names={DATA_AXIS} | alone,
            check_vma=False,
        )
        shards, collections = run(params, collections, inputs, key)
        # Not x.sum(0): it would convert bfloat16 to float32 before the sum over devices.
        loss, sums = jax.tree.map(lambda x: jax.lax.reduce_sum(x, (0,)), shards)
        return loss, collections, sums

    return sum_gradients


def _rngs(key):
    """Return the keys of drop path and dropout."""
    return {name: jax.random.fold_in(key, index) for index, name in enumerate(("drop_path", "dropout"))}
