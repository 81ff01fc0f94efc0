"""MixMIM (MixMAE, arXiv 2205.13137): two images mixed into one pass, both reconstructed.

Every image lends its partner the cells that the partner keeps from it: both mixtures of a pair together
hold every cell of both images once. Source: the published `models_mixmim.py`.
"""

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.mim.masking import mixing_mask
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.partial import Reconstruction, decode_all
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import FixedPositions, token_init, upsample_nearest
from fastmim_jax.models.swin import AttentionGroups


def partner(x, groups):
    """Every row of (B, ...) exchanged for its mirror in its group of consecutive rows."""
    return x.reshape(groups, -1, *x.shape[1:])[:, ::-1].reshape(x.shape)


def mix(x, mask, groups):
    """(B, H, W, C) images or tokens, each with the partner's where a coarser mask (B, h, w) is True."""
    fine = upsample_nearest(mask, x.shape[1] // mask.shape[1])[..., None]
    return jnp.where(fine, partner(x, groups), x)


def unmix(own, others, mask, groups):
    """Predictions of every image itself, each cell by the stream that did not see it.

    Args:
      own: (B, h, w, P), of mixture i for image i; others: of mixture i for its partner.
      mask: (B, h, w), True where the mixture has the partner's cells.
    """
    return jnp.where(mask[..., None], own, partner(others, groups))


class MixMIM(Method):
    """One pre-training pass.

    Attributes:
      encoder: a backbone that can keep labelled cells apart.
      target, block_size, mask_ratio: as of every Method; blocks are the encoder's cells, and those
        are hidden that come from an image's partner.
      decoder: keyword arguments of the Decoder.
      groups: parts of a batch, each with one mask; an image's partner is its mirror in the part. They are
        consecutive rows, so that none crosses a device where the devices divide the groups. A batch that
        they do not divide into even parts has fewer (`noise_shape`); training refuses such a batch.
      reconstruct: how the decoder is used: `decode_all` or a Partial.
    """

    decoder: Mapping
    groups: int = 1
    reconstruct: Callable = decode_all

    def num_masked(self, cells):
        """How many of so many cells come from the partner in every image."""
        return int(cells * self.mask_ratio)

    def noise_shape(self, images_shape):
        """(groups, cells): the shape of the uniform noise that decides what is mixed."""
        batch, cells = super().noise_shape(images_shape)
        return math.gcd(self.groups, max(batch // 2, 1)), cells

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator.

        Prediction and target are those of every image itself, gathered from both mixtures that it is in.
        The middle image of an odd group mixes with itself, as published.
        """
        noise = self.draw_noise(images) if noise is None else noise
        batch, height, width, channels = images.shape
        groups, stride = len(noise), self.encoder.stride
        if batch % groups:
            raise UserError(f"{batch} images do not divide into {groups} groups")
        taken, members = mixing_mask(noise, (height // stride, width // stride), self.mask_ratio)
        shape = (groups, batch // groups, *taken.shape[1:])
        mask = jnp.broadcast_to(taken[:, None], shape).reshape(batch, *taken.shape[1:])

        tokens = mix(self.encoder.embed(images), mask, groups)
        encoded = self.encoder.encode(tokens, AttentionGroups(mask, members))
        decoder = Decoder(self.target.values(stride, channels), **self.decoder, name="decoder")
        tokens, prefix = decoder.embed_tokens(encoded)
        token = self.param("mask_token", token_init, (1, 1, 1, tokens.shape[-1])).astype(tokens.dtype)
        # Side by side in the batch, not one after the other, so that rows stay on their devices.
        hidden = jnp.stack([mask, ~mask], axis=1).reshape(2 * batch, *mask.shape[1:])
        streams = jnp.where(hidden[..., None], token, tokens.repeat(2, axis=0))
        counts = tuple(index.shape[1] for index in reversed(members))  # hidden in either stream
        streams = FixedPositions()(streams), prefix.repeat(2, axis=0)
        both = self.reconstruct(decoder, *streams, hidden, counts, noise)
        prediction, weight, thrown = _unmix_all(both, mask, groups)

        target = self.target(images, stride)
        loss, encoder_input = self.error(prediction, target, weight), mix(images, mask, groups)
        return Output(loss, prediction, target, mask.astype(jnp.float32), encoder_input, weight, thrown)


def _unmix_all(both, mask, groups):
    """What was made of both streams of each mixture, (2B, h, w, ...), as that of each image."""

    def of_images(x):
        own, others = jnp.moveaxis(x.reshape(len(mask), 2, *mask.shape[1:], -1), 1, 0)
        return unmix(own, others, mask, groups)

    prediction, *rest = map(of_images, both)
    return Reconstruction(prediction, *(x[..., 0] for x in rest))
