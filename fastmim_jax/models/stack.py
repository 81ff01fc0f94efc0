"""A stack of blocks, unrolled or scanned, with drop path (stochastic depth)."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.device import rows_of_shard
from fastmim_jax.models.layers import constrain_batch_sharding
from fastmim_jax.models.typing import Array

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
DROP_PATH = "drop_path"  # name of the random generator; without it nothing is dropped

BranchScale = tuple[Float[Array, " B"] | None, ...]  # of each residual branch, see `residual`


def drop_path_rates(largest: float, depths: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Return the drop rate of each block of each stage: linear from 0 to `largest` over all stages.

    Source: arXiv 1603.09382 (linear decay), as in every published ViT and Swin.

    Args:
      largest: rate of the last block, in [0, 1).
      depths: number of blocks of each stage.

    Raises:
      ValueError: a rate outside [0, 1).
    """
    if not 0 <= largest < 1:
        raise ValueError(f"drop_path is {largest}, expected a probability of at least 0 and below 1")
    rates, ends = np.linspace(0, largest, sum(depths)).tolist(), np.cumsum(depths)
    return tuple(tuple(rates[end - depth : end]) for depth, end in zip(depths, ends, strict=True))


def residual(
    x: Float[Array, " B *rest"],
    branch: Float[Array, " B *rest"],
    scale: Float[Array, " B"] | None = None,
) -> Float[Array, " B *rest"]:
    """Return x + scale * branch, with one float32 scale per sample, or None for 1."""
    return x + residual_branch(branch, scale)


def residual_branch(
    branch: Float[Array, " B *rest"], scale: Float[Array, " B"] | None = None
) -> Float[Array, " B *rest"]:
    """Return scale * branch, with one float32 scale per sample, or None for 1."""
    if scale is None:
        return branch
    # In float32: 1 / (1 - rate) rounded to bfloat16 would bias every sample alike.
    return (scale.reshape(-1, *[1] * (branch.ndim - 1)) * branch).astype(branch.dtype)


class Stack(nn.Module):
    """`depth` blocks of one class, with parameters under the names "0", "1", ...

    Attributes:
      block: class of a block, a module from x and the shared arrays to a new x, both (B, ..., D). It has
        `num_branches`, its number of residual branches under drop path, and takes `scales`, the scale of
        each branch as in `residual`.
      options: keyword arguments of a block, or a tuple of them: block i takes options i % len(options).
      remat: "none", "full" (save block inputs only) or "dots" (save matrix products too).
      layers: "unrolled", or "scanned": one compiled loop over blocks, which is quicker to compile.
        Parameters, their names and their initial values are the same in both.
      drop_path: drop rate of each block, for each sample and branch independently; a branch that is not
        dropped is divided by 1 - rate. It acts if there is a "drop_path" generator.
      residual_dtype: of the sums x + branch between the blocks; None: that of x.
    """

    block: type[nn.Module]
    depth: int
    options: Mapping[str, Any] | tuple[Mapping[str, Any], ...]
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None
    residual_dtype: DTypeLike | None = None

    def __call__(self, x: Float[Array, " B *rest"], *shared: Any) -> Float[Array, " B *rest"]:
        """Apply all blocks.

        Args:
          shared: trees of arrays that every block is given.
        """
        return self._run(x, shared, emit=lambda y: None)[0].astype(x.dtype)

    def outputs(self, x: Float[Array, " B *rest"], *shared: Any) -> list[Float[Array, " B *rest"]]:
        """Apply all blocks and return the output of each."""
        return self._run(x, shared, emit=lambda y: y.astype(x.dtype))[1]

    @nn.compact
    def _run(self, x, shared, emit):
        """Return the last output, and `emit(output)` of each block."""
        emitted, start = [], 0
        x = x if self.residual_dtype is None else x.astype(self.residual_dtype)
        scales = self._branch_scales(len(x))
        options = self.options if isinstance(self.options, tuple) else (self.options,)
        if self.layers == "scanned" and not self.is_initializing():
            start = self.depth - self.depth % len(options)
            x, emitted = self._scan(x, shared, emit, options, scales[:start])
        block = self.block
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat])
        for index in range(start, self.depth):
            module = block(**options[index % len(options)], name=str(index))
            x = module(constrain_batch_sharding(x), *shared, scales=scales[index])
            emitted.append(emit(x))
        return x, emitted

    def _branch_scales(self, batch):
        """Return for each block the scale of each branch: 0 or 1 / (1 - rate), (B,); None for 1."""
        branches = self.block.num_branches
        if not any(self.drop_path or ()) or not self.has_rng(DROP_PATH):
            return [(None,) * branches] * self.depth
        keep_rate = 1 - jnp.asarray(self.drop_path, jnp.float32)[:, None, None]
        key = self.make_rng(DROP_PATH)

        def draw(rows):
            return jax.random.bernoulli(key, keep_rate, (self.depth, branches, rows))

        keep = rows_of_shard(draw, batch, axis=2)
        return [tuple(block_scales) for block_scales in keep / keep_rate]

    def _scan(self, x, shared, emit, options, scales):
        """Scan the first len(scales) blocks; one iteration applies one block of each options."""
        depth, period = len(scales), len(options)
        if not depth:
            return x, []
        blocks = [self.block(**block_options, parent=None) for block_options in options]
        others = [name for name in self.variables if name != "params"]
        mutable = [name for name in others if self.is_mutable_collection(name)]

        def inputs(index):
            own = {name: tree[str(index)] for name, tree in self.variables.items() if str(index) in tree}
            return own, scales[index]

        def body(x, block_inputs):
            emitted, updated = [], []
            for block, (own, block_scales) in zip(blocks, block_inputs, strict=True):
                x, new = block.apply(
                    own, constrain_batch_sharding(x), *shared, scales=block_scales, mutable=mutable
                )
                emitted.append(emit(x))
                updated.append(new)
            return x, (emitted, updated)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(inputs, range(offset, depth, period)))
            for offset in range(period)
        ]
        x, (emitted, updated) = jax.lax.scan(body, x, stacked)
        for index in range(depth):
            iteration, offset = divmod(index, period)
            for name, tree in updated[offset].items():
                self.put_variable(name, str(index), jax.tree.map(lambda leaf, i=iteration: leaf[i], tree))
        steps = [divmod(index, period) for index in range(depth)]
        return x, [None if emitted[offset] is None else emitted[offset][i] for i, offset in steps]
