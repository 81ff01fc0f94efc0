"""MAE (arXiv 2111.06377) as a cost model: the operations and shapes of its training step, no more.

It is written to be timed. Nothing here was compared with the published code, and nothing trains it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.mim.losses import masked_mean_square
from fastmim_jax.mim.masking import visible_count
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.targets import Pixels
from fastmim_jax.models.attention import TransformerBlock
from fastmim_jax.models.layers import Dense, Stack, layer_norm, refine, sincos_positions, token_init
from fastmim_jax.models.vit import ViT


class MAE(nn.Module):
    """Only visible patches are encoded; a decoder sees all of them, hidden ones as mask tokens.

    Called like FastMIM, so that `fastmim_jax.train.steps.pretrain_step` takes it.
    """

    encoder: ViT
    mask_ratio: float = 0.75
    width: int = 512
    depth: int = 8
    heads: int = 16

    def noise_shape(self, images_shape):
        """(B, patches): the shape of the uniform noise that decides what is hidden."""
        batch, height, width, _ = images_shape
        return batch, (height // self.encoder.stride) * (width // self.encoder.stride)

    @nn.compact
    def __call__(self, images, noise=None):
        """(B, H, W, C) normalised images -> Output; without `noise`, drawn from the "mask" generator."""
        if noise is None:
            noise = jax.random.uniform(self.make_rng("mask"), self.noise_shape(images.shape))
        size, dtype = self.encoder.stride, self.encoder.dtype
        grid = (images.shape[1] // size, images.shape[2] // size)
        order = jnp.argsort(noise, axis=1)  # patches from the least noise to the most
        place = jnp.argsort(order, axis=1)  # where each patch stands in that order
        visible = visible_count(noise.shape[1], self.mask_ratio)

        x = self._encode(images, order[:, :visible])
        x = Dense(self.width, dtype, name="decoder_embed")(x)
        x = self._unshuffle(x, place, grid)
        options = dict(heads=self.heads, kernel=self.encoder.kernel, dtype=dtype)
        how = (self.encoder.remat, self.encoder.layers)
        x = Stack(TransformerBlock, self.depth, options, *how, name="decoder_blocks")(x)
        x = layer_norm(1e-6, dtype, name="decoder_norm")(x[:, 1:])
        target = Pixels(normalize=True)
        prediction = Dense(target.values(size, images.shape[-1]), dtype, name="decoder_pred")(x)
        prediction = prediction.reshape(-1, *grid, prediction.shape[-1]).astype(jnp.float32)

        hidden = (place >= visible).reshape(-1, *grid)
        mask, wanted = hidden.astype(jnp.float32), target(images, size)
        seen = jnp.where(refine(hidden, size)[..., None], 0.0, images)
        loss = masked_mean_square(prediction, wanted, mask)
        return Output(loss, prediction, wanted, mask, seen, counted=mask)

    def _encode(self, images, kept):
        """(B, H, W, C) images and the indices (B, V) of visible patches -> (B, 1 + V, D), cls first."""
        encoder = self.encoder
        tokens = encoder.embed(images)
        batch, rows, columns, width = tokens.shape
        tokens = tokens + sincos_positions(rows, columns, width).astype(encoder.dtype)
        tokens = jnp.take_along_axis(tokens.reshape(batch, -1, width), kept[..., None], axis=1)
        cls = jnp.broadcast_to(encoder.cls_token.astype(encoder.dtype), (batch, 1, width))
        return encoder.norm(encoder.blocks(jnp.concatenate([cls, tokens], axis=1)))

    def _unshuffle(self, x, place, grid):
        """(B, 1 + V, D) -> (B, 1 + h*w, D): mask tokens for the hidden, all at their places, positions."""
        batch, count, width = x.shape
        token = self.param("mask_token", token_init, (1, 1, width)).astype(x.dtype)
        hidden = jnp.broadcast_to(token, (batch, 1 + place.shape[1] - count, width))
        tokens = jnp.concatenate([x[:, 1:], hidden], axis=1)
        tokens = jnp.take_along_axis(tokens, place[..., None], axis=1)
        tokens = tokens + sincos_positions(*grid, width).astype(x.dtype).reshape(-1, width)
        return jnp.concatenate([x[:, :1], tokens], axis=1)
