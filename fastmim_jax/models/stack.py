"""Blocks one after another, unrolled or scanned, and drop path: blocks that leave samples as they are."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.models.layers import split_over_batch

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
DROP_PATH = "drop_path"  # the generator without which nothing is dropped


def drop_path_rates(largest, depths):
    """How often each block drops a branch: from 0 straight up to `largest`, through all stages.

    Source: arXiv 1603.09382 (linear decay), as every published ViT and Swin has it.

    Args:
      largest: of the last block, in [0, 1).
      depths: number of blocks of each stage.

    Returns:
      One tuple per stage, of one float per block.

    Raises:
      UserError: a rate outside [0, 1).
    """
    if not 0 <= largest < 1:
        raise UserError(
            f"drop_path is {largest}, expected a share of at least 0 and below 1: "
            "type --config.model.backbone.drop_path=0.1"
        )
    rates, ends = np.linspace(0, largest, sum(depths)).tolist(), np.cumsum(depths)
    return tuple(tuple(rates[end - depth : end]) for depth, end in zip(depths, ends, strict=True))


def residual(x, branch, keep=None):
    """x + branch, both (B, ..., D); keep: (B,) float32 factors of the branch, or None for 1."""
    if keep is None:
        return x + branch
    # In float32, as 1 / (1 - rate) in bfloat16 would be off in the same direction in every sample.
    return x + (keep.reshape(-1, *[1] * (x.ndim - 1)) * branch).astype(branch.dtype)


class Stack(nn.Module):
    """`depth` blocks of one kind, one after another; parameters under the names "0", "1", ...

    Attributes:
      block: the class of a block, a module from x and the shared arrays to a new x, both (B, ..., D). It
        has `branches`, the number of its residual branches that drop path may drop, and takes `keep`, a
        tuple with the factor of each as `residual` does.
      options: its keyword arguments, or a tuple of them: block i takes those at i modulo their number.
      remat: "none", "full" (keep only block inputs) or "dots" (keep matrix products too).
      layers: "unrolled", or "scanned": compiled once for all blocks of equal options, which is quicker
        to compile. Parameters, their names and their initial values are the same in both.
      drop_path: of each block the probability that a branch is dropped, for each sample and branch by
        itself; a kept one is divided by its probability. It acts where a "drop_path" generator is given.
    """

    block: type[nn.Module]
    depth: int
    options: Any
    remat: str = "none"
    layers: str = "unrolled"
    drop_path: tuple[float, ...] | None = None

    def __call__(self, x, *shared):
        """x (B, ..., D), and arrays that every block is given -> (B, ..., D)."""
        return self._run(x, shared, tell=lambda y: None)[0]

    def outputs(self, x, *shared):
        """As the call -> what each block gives, a list of `depth` arrays (B, ..., D)."""
        return self._run(x, shared, tell=lambda y: y)[1]

    @nn.compact
    def _run(self, x, shared, tell):
        told, start = [], 0
        factors = self._factors(len(x))
        kinds = self.options if isinstance(self.options, tuple) else (self.options,)
        if self.layers == "scanned" and not self.is_initializing():
            start = self.depth - self.depth % len(kinds)
            x, told = self._scan(x, shared, tell, kinds, factors[:start])
        block = self.block
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat])
        for index in range(start, self.depth):
            module = block(**kinds[index % len(kinds)], name=str(index))
            x = module(split_over_batch(x), *shared, keep=factors[index])
            told.append(tell(x))
        return x, told

    def _factors(self, batch):
        """What the branches of each block are multiplied by: 0 or 1 / (1 - rate), (B,); None for 1."""
        branches = self.block.branches
        if not any(self.drop_path or ()) or not self.has_rng(DROP_PATH):
            return [(None,) * branches] * self.depth
        share = 1 - jnp.asarray(self.drop_path, jnp.float32)[:, None, None]
        kept = jax.random.bernoulli(self.make_rng(DROP_PATH), share, (self.depth, branches, batch))
        return [tuple(of_block) for of_block in kept / share]

    def _scan(self, x, shared, tell, kinds, factors):
        """The first blocks, as many as there are factors; all kinds in each turn of the scan."""
        depth = len(factors)
        if not depth:
            return x, []
        blocks = [self.block(**options, parent=None) for options in kinds]
        others = [name for name in self.variables if name != "params"]
        changing = [name for name in others if self.is_mutable_collection(name)]

        def inputs(index):
            own = {name: tree[str(index)] for name, tree in self.variables.items() if str(index) in tree}
            return own, factors[index]

        def body(x, turn):
            told, changed = [], []
            for block, (own, keep) in zip(blocks, turn, strict=True):
                x, new = block.apply(own, split_over_batch(x), *shared, keep=keep, mutable=changing)
                told.append(tell(x))
                changed.append(new)
            return x, (told, changed)

        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        turns = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(inputs, range(kind, depth, len(kinds))))
            for kind in range(len(kinds))
        ]
        x, (told, changed) = jax.lax.scan(body, x, turns)
        for index in range(depth):
            turn, kind = divmod(index, len(kinds))
            for name, tree in changed[kind].items():
                self.put_variable(name, str(index), jax.tree.map(lambda leaf, t=turn: leaf[t], tree))
        order = [divmod(index, len(kinds)) for index in range(depth)]
        return x, [None if told[kind] is None else told[kind][turn] for turn, kind in order]
