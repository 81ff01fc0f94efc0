"""A target at several scales on one grid of tokens (LocalMIM, arXiv 2303.05251)."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from fastmim_jax.mim.targets import Target
from fastmim_jax.mim.targets.depiction import Depiction
from fastmim_jax.models.layers import patchify, unpatchify, upsample_nearest
from fastmim_jax.models.typing import Array


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """The values of a target in squares of several sizes, side by side in every token.

    A token has the values of all smaller squares in it, and those of the larger square around it. They are
    scaled so that the masked mean squared error over all values is the sum of those of the scales, where a
    square's weight is its masked share.

    Attributes:
      target: of every scale.
      sizes: sides of the squares in pixels; each divides the size of a token or is a multiple of it.
    """

    target: Target
    sizes: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name of the target in pictures."""
        return self.target.label

    @property
    def timed(self) -> bool:
        """Whether `fastmim bench` times it apart from the rest of the step."""
        return self.target.timed

    @property
    def unit(self) -> int:
        """Side of the smallest squares in pixels."""
        return min(self.sizes)

    def at(self, size: int) -> Target:
        """Return the target of one scale."""
        return self.target.at(size)

    def values(self, size: int, channels: int) -> int:
        """Return P, the number of values of all scales per token of `size` pixels."""
        return sum(self._values(size, channels))

    def __call__(self, images: Shaped[Array, "B H W C"], size: int) -> Float[Array, "B h w P"]:
        """(B, H, W, C) -> (B, H/size, W/size, P) float32."""
        return self.pack([self.at(side)(images, side) for side in self.sizes], size)

    def pack(self, grids: Sequence[Float[Array, "B _h _w _V"]], size: int) -> Float[Array, "B h w P"]:
        """Return the tokens of `size` pixels for a grid of values per scale, in the order of `sizes`."""
        tokens = [
            patchify(grid, size // side) if side <= size else upsample_nearest(grid, side // size)
            for grid, side in zip(grids, self.sizes, strict=True)
        ]
        total = sum(x.shape[-1] for x in tokens)
        return jnp.concatenate([x * math.sqrt(total / x.shape[-1]) for x in tokens], axis=-1)

    def unpack(self, tokens: Float[Array, "B h w P"], size: int) -> list[Float[Array, "B _h _w _V"]]:
        """Return a grid of values per scale, the inverse of `pack`."""
        total, start, grids = tokens.shape[-1], 0, []
        for side, count in zip(self.sizes, self._values(size, total // self.values(size, 1)), strict=True):
            x = tokens[..., start : start + count] / math.sqrt(total / count)
            step = max(side // size, 1)
            grids.append(unpatchify(x, size // side) if side <= size else x[:, ::step, ::step])
            start += count
        return grids

    def split(self, tokens: Float[Array, "B h w P"], parts: int, size: int) -> Float[Array, "B h2 w2 P2"]:
        """Regroup (B, h, w, P) from tokens of `size` pixels to (B, h*parts, w*parts, P2)."""
        return self.pack(self.unpack(tokens, size), size // parts)

    def depict(
        self,
        prediction: Float[Array, "B h w P"],
        target: Float[Array, "B h w P"],
        images: Float[Array, "B H W C"],
        size: int,
    ) -> Depiction:
        """Return the depiction of the finest scale."""
        finest = self.sizes.index(self.unit)
        predicted, true = (self.unpack(x, size)[finest] for x in (prediction, target))
        return self.at(self.unit).depict(predicted, true, images, self.unit)

    def _values(self, size: int, channels: int) -> list[int]:
        """Return the number of values of each scale per token."""
        return [self.at(side).values(side, channels) * max(size // side, 1) ** 2 for side in self.sizes]
