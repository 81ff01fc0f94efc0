"""The HOG target of FastMIM and MaskFeat."""

import dataclasses

from jaxtyping import Float, Shaped

from fastmim_jax.mim.hog import hog
from fastmim_jax.mim.targets.depiction import Histograms
from fastmim_jax.models.typing import Array


@dataclasses.dataclass(frozen=True)
class HOG:
    """HOG of the u x u cells of a token; P = C*bins*u*u in (channel, bin, row, column) order.

    `normalize` divides each histogram by its L2 norm. The published flag for normalised pixels does this
    to HOG, and both published recipes set it.
    """

    normalize: bool = True
    bins: int = 9
    cell: int = 8

    label = "HOG"
    timed = True

    @property
    def unit(self) -> int:
        """Side of a cell in pixels."""
        return self.cell

    def at(self, size: int) -> "HOG":
        """Return the target with cells of `size` pixels."""
        return dataclasses.replace(self, cell=size)

    def values(self, size: int, channels: int) -> int:
        """Return P, the number of values per token of `size` pixels."""
        return channels * self.bins * (size // self.cell) ** 2

    def __call__(self, images: Shaped[Array, "B H W C"], size: int) -> Float[Array, "B h w P"]:
        """(B, H, W, C) -> (B, H/size, W/size, P) float32."""
        return _merge(hog(images, self.bins, self.cell, self.normalize), size // self.cell)

    def split(self, tokens: Float[Array, "B h w P"], parts: int, size: int) -> Float[Array, "B h2 w2 P2"]:
        """Regroup (B, h, w, P) from tokens of `size` pixels to (B, h*parts, w*parts, P/parts**2)."""
        side = size // self.cell
        batch, rows, columns, _ = tokens.shape
        x = tokens.reshape(batch, rows, columns, -1, side, side)
        cells = x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, rows * side, columns * side, -1)
        return _merge(cells, side // parts)

    def depict(
        self,
        prediction: Float[Array, "B h w P"],
        target: Float[Array, "B h w P"],
        images: Float[Array, "B H W C"],
        size: int,
    ) -> Histograms:
        """Return the histograms of every cell."""

        def histograms(tokens: Array) -> Array:
            cells = self.split(tokens, size // self.cell, size)
            return cells.reshape(*cells.shape[:3], images.shape[-1], self.bins)

        return Histograms(histograms(prediction), histograms(target), self.normalize)


def _merge(cells: Array, side: int) -> Array:
    """(B, h*side, w*side, K) of cells -> (B, h, w, K*side*side) of tokens of side x side cells."""
    batch, rows, columns, values = cells.shape
    x = cells.reshape(batch, rows // side, side, columns // side, side, values)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rows // side, columns // side, -1)
