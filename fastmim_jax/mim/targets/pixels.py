"""The pixel target of MAE, SimMIM and MixMIM."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, Shaped

from fastmim_jax.mim.targets.depiction import Images
from fastmim_jax.models.layers import patchify, unpatchify
from fastmim_jax.models.typing import Array

VARIANCE_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pixels of a token, P = size*size*C in (row, column, channel) order.

    `normalize` subtracts each token's mean and divides by its standard deviation (unbiased).
    """

    normalize: bool = True

    label = "pixels"
    unit = 1
    timed = False

    def at(self, size: int) -> "Pixels":
        """Return the target itself: its tokens may have any size."""
        return self

    def values(self, size: int, channels: int) -> int:
        """Return P, the number of values per token of `size` pixels."""
        return size * size * channels

    def __call__(self, images: Shaped[Array, "B H W C"], size: int) -> Float[Array, "B h w P"]:
        """(B, H, W, C) -> (B, H/size, W/size, P) float32."""
        patches = patchify(images.astype(jnp.float32), size)
        if not self.normalize:
            return patches
        mean, std = patch_statistics(patches)
        return (patches - mean) / std

    def split(self, tokens: Float[Array, "B h w P"], parts: int, size: int) -> Float[Array, "B h2 w2 P2"]:
        """Regroup (B, h, w, P) from tokens of `size` pixels to (B, h*parts, w*parts, P/parts**2)."""
        return patchify(unpatchify(tokens, size), size // parts)

    def depict(
        self,
        prediction: Float[Array, "B h w P"],
        target: Float[Array, "B h w P"],
        images: Float[Array, "B H W C"],
        size: int,
    ) -> Images:
        """Return the predicted images; normalised patches get the mean and contrast of the true ones."""
        note = ""
        if self.normalize:
            mean, std = patch_statistics(patchify(images, size))
            prediction = prediction * std + mean
            note = "each such patch's mean and contrast are taken from the truth"
        return Images(unpatchify(prediction, size), images, note)


def patch_statistics(
    patches: Float[Array, "B h w P"],
) -> tuple[Float[Array, "B h w 1"], Float[Array, "B h w 1"]]:
    """Return the mean and the standard deviation of every patch (B, h, w, P), both (B, h, w, 1)."""
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + VARIANCE_EPSILON)
