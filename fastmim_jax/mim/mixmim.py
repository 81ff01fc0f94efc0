"""MixMIM (MixMAE, arXiv 2205.13137): encode a mixture of two images, reconstruct both.

Each image pair swaps its masked cells: together, its two mixtures hold every cell of both images once.
Source: the published `models_mixmim.py`.
"""

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from fastmim_jax.mim.masking import mixing_mask
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import Reconstruction, decode_all
from fastmim_jax.models.base import AttentionGroups
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import token_init, upsample_nearest
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.positions import FixedPositions
from fastmim_jax.models.pyramid import Pyramid
from fastmim_jax.models.typing import Array


def partner(x: Shaped[Array, " B *rest"], groups: int) -> Shaped[Array, " B *rest"]:
    """Return the partner of every row: its mirror image in its group of consecutive rows."""
    return x.reshape(groups, -1, *x.shape[1:])[:, ::-1].reshape(x.shape)


def micro_batch_split(batch: int, groups: int, parts: int) -> tuple[int, int] | None:
    """Return how the pairs of a batch are split into equal micro-batches; None if they cannot be.

    Args:
      batch: images.
      groups: see `partner`.
      parts: micro-batches.

    Returns:
      (within, across): every group is split into `within` parts, and the groups into `across` parts;
      within * across = parts.
    """
    if batch % (2 * groups):
        return None
    within = math.gcd(parts, batch // groups // 2)
    across = parts // within
    return (within, across) if groups % across == 0 else None


def split_pairs(x: Shaped[Array, " B *rest"], groups: int, parts: int) -> Shaped[Array, " p b *rest"]:
    """Split a batch into micro-batches that keep the pairs and the order of the groups.

    Raises:
      ValueError: see `micro_batch_split`.
    """
    within, across = _split(len(x), groups, parts)
    rest = x.shape[1:]
    # (groups of a part, across, half of a group, pairs of a part, within, ...)
    halves = x.reshape(groups // across, across, 2, len(x) // groups // 2 // within, within, *rest)
    # The partner of the image at place s of `within` is at place within - 1 - s of the other half.
    halves = jnp.stack([halves[:, :, 0], halves[:, :, 1, :, ::-1]], axis=2)
    return jnp.moveaxis(halves, (1, 4), (0, 1)).reshape(parts, len(x) // parts, *rest)


def split_groups(x: Shaped[Array, " G *rest"], batch: int, parts: int) -> Shaped[Array, " p g *rest"]:
    """Split an array with a row per group like the batch of `split_pairs`; groups that are split repeat."""
    within, across = _split(batch, len(x), parts)
    rows = x.reshape(len(x) // across, across, *x.shape[1:]).swapaxes(0, 1)
    return jnp.repeat(rows, within, axis=0)


def _split(batch: int, groups: int, parts: int) -> tuple[int, int]:
    found = micro_batch_split(batch, groups, parts)
    if found is None:
        raise ValueError(
            f"{parts} micro-batches do not split {groups} groups of pairs in a batch of {batch}"
        )
    return found


def mix(x: Shaped[Array, "B H W C"], mask: Bool[Array, "B h w"], groups: int) -> Shaped[Array, "B H W C"]:
    """Return images or tokens with the partner's cells where the mask, of any coarser grid, is True."""
    fine = upsample_nearest(mask, x.shape[1] // mask.shape[1])[..., None]
    return jnp.where(fine, partner(x, groups), x)


def unmix(
    own: Shaped[Array, "B h w P"],
    others: Shaped[Array, "B h w P"],
    mask: Bool[Array, "B h w"],
    groups: int,
) -> Shaped[Array, "B h w P"]:
    """Return the predictions of every image, each cell from the stream in which the cell was masked.

    Args:
      own: predictions of mixture i for image i.
      others: predictions of mixture i for the partner of image i.
      mask: True where the mixture has the partner's cells.
      groups: see `partner`.
    """
    return jnp.where(mask[..., None], own, partner(others, groups))


class MixMIM(Method):
    """MixMIM over a backbone with `supports_groups`.

    Attributes:
      encoder, target, block_size, mask_ratio: see `Method`; a block is a cell of the encoder's last grid,
        and masked cells come from an image's partner.
      decoder: keyword arguments of the Decoder.
      groups: groups of consecutive images, each with one mask; an image's partner is its mirror image in
        the group. Groups stay on one device if the devices divide them. A batch that does not divide into
        `groups` groups of pairs has fewer (`noise_shape`); training rejects such a batch.
      reconstruct: `decode_all` or a PartialReconstruction.
    """

    encoder: Pyramid
    decoder: Mapping
    groups: int = 1
    reconstruct: Callable = decode_all

    def count_masked(self, num_cells: int) -> int:
        """Return how many of `num_cells` come from the partner in every image."""
        return int(num_cells * self.mask_ratio)

    def noise_shape(self, images_shape: tuple[int, ...]) -> tuple[int, int]:
        """Return (groups, blocks), the shape of the uniform noise that determines the mixture."""
        batch, num_blocks = super().noise_shape(images_shape)
        return math.gcd(self.groups, max(batch // 2, 1)), num_blocks

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "G N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream.

        Prediction and target belong to the image itself; its prediction is gathered from both mixtures that
        contain it. The middle image of an odd group mixes with itself, as published.

        Raises:
          ValueError: a batch that the groups of the noise do not divide.
        """
        noise = self.draw_noise(images) if noise is None else noise
        batch, height, width, channels = images.shape
        groups, stride = len(noise), self.encoder.stride
        if batch % groups:
            raise ValueError(f"{groups} groups do not divide a batch of {batch}")
        group_mask, ids = mixing_mask(
            noise, (height // stride, width // stride), self.num_masked(noise.shape[1])
        )
        grid = group_mask.shape[1:]
        mask = jnp.broadcast_to(group_mask[:, None], (groups, batch // groups, *grid))
        mask = mask.reshape(batch, *grid)

        tokens = mix(self.encoder.embed(images), mask, groups)
        encoded = self.encoder.encode(tokens, AttentionGroups(mask, ids))
        decoder = Decoder(self.target.values(stride, channels), **self.decoder, name="decoder")
        tokens, prefix = decoder.embed_tokens(encoded)
        mask_token = self.param("mask_token", token_init, (1, 1, 1, tokens.shape[-1]))
        # Both streams of an image are neighbours in the batch, so that rows stay on their devices.
        masks = jnp.stack([mask, ~mask], axis=1).reshape(2 * batch, *grid)
        streams, prefix = (x.repeat(2, axis=0) for x in (tokens, prefix))
        streams = jnp.where(masks[..., None], broadcast_parameter(mask_token, streams), streams)
        streams = FixedPositions()(streams)
        num_masked = tuple(index.shape[1] for index in reversed(ids))  # of either stream
        both = self.reconstruct(decoder, streams, prefix, masks, num_masked, noise)
        prediction, weight, thrown = _unmix_streams(both, mask, groups)

        target = self.target(images, stride)
        loss, encoder_input = self.loss_fn(prediction, target, weight), mix(images, mask, groups)
        return Output(loss, prediction, target, mask.astype(jnp.float32), encoder_input, weight, thrown)


def _unmix_streams(both: Reconstruction, mask: Array, groups: int) -> Reconstruction:
    """Turn the Reconstruction of the streams of all mixtures, (2B, h, w, ...), into that of the images."""

    def of_images(x: Array) -> Array:
        own, others = jnp.moveaxis(x.reshape(len(mask), 2, *mask.shape[1:], -1), 1, 0)
        return unmix(own, others, mask, groups)

    prediction, *rest = map(of_images, both)
    return Reconstruction(prediction, *(x[..., 0] for x in rest))
