"""LocalMIM (arXiv 2303.05251): early layers of the encoder predict fine scales, late ones coarse scales.

Source: `models_mim.py` of the published code for ViT.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.targets.multi_scale import MultiScale
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.layers import mean_pool, token_init, unpatchify, upsample_nearest
from fastmim_jax.models.local_decoder import LocalDecoder
from fastmim_jax.models.typing import Array


class LocalMIM(Method):
    """LocalMIM over any backbone; the scales are side by side on the grid of blocks (see `MultiScale`).

    A backbone with `supports_token_dropping` encodes visible patches alone, as in MAE; every other one the
    whole image with masked blocks of a learned colour, as in FastMIM.

    Attributes:
      encoder, block_size, mask_ratio: see `Method`; a block is a patch where tokens are dropped.
      target: with a scale per layer; a scale coarser than the layer's tokens gets the mean of their values.
      local_layers: numbers, from 1, of the encoder's `layer_names` that predict; the last is among them.
      decoder: keyword arguments of each LocalDecoder.
    """

    target: MultiScale
    decoder: Mapping
    local_layers: tuple[int, ...]

    @property
    def output_stride(self) -> int:
        """Side in pixels of a token of the Output's grid."""
        return self.block_size

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "B N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream."""
        noise = self.draw_noise(images) if noise is None else noise
        mask = self.mask_blocks(noise, images.shape)
        encode = self._encode_visible if self.encoder.supports_token_dropping else self._encode_filled
        encoder_input, outputs, restore = encode(images, mask, noise)
        grids = [
            self._predict(outputs, restore, number, size, images.shape[-1])
            for number, size in zip(self.local_layers, self.target.sizes, strict=True)
        ]
        prediction, target = self.target.pack(grids, self.block_size), self.target(images, self.block_size)
        mask = mask.astype(jnp.float32)
        loss = self.loss_fn(prediction, target, mask)
        return Output(loss, prediction, target, mask, encoder_input, mask, jnp.zeros_like(mask))

    def _encode_visible(self, images: Array, mask: Array, noise: Array) -> tuple[Array, list, Callable]:
        """Return the encoder's input, the output of each layer, and what makes a grid of visible tokens."""
        ids_shuffle, ids_restore = shuffle_ids(noise)
        ids_keep = ids_shuffle[:, : noise.shape[1] - self.num_masked(noise.shape[1])]
        _, *outputs = self.encoder.visible_outputs(images, ids_keep)
        outputs[-1] = self.encoder.normalize(outputs[-1])
        encoder_input = jnp.where(upsample_nearest(mask, self.block_size)[..., None], 0.0, images)
        return (
            encoder_input,
            outputs,
            lambda decoder, x: decoder.mask_tokens(x, mask, ids_restore, ids_keep),
        )

    def _encode_filled(self, images: Array, mask: Array, noise: Array) -> tuple[Array, list, Callable]:
        mask_token = self.param("mask_token", token_init, (images.shape[-1],))
        encoder_input = jnp.where(upsample_nearest(mask, self.block_size)[..., None], mask_token, images)
        return encoder_input, self.encoder.outputs(encoder_input), lambda decoder, grid: grid

    def _predict(
        self, outputs: list[EncoderOutput], restore: Callable, number: int, size: int, channels: int
    ) -> Array:
        """Return the values of all squares of `size` pixels, from one layer."""
        stride, last = self.encoder.layer_strides[number - 1], number == len(outputs)
        cells = max(stride // size, 1)
        values = cells**2 * self.target.at(size).values(size, channels)
        decoder = LocalDecoder(values, cells=cells, **self.decoder, name=f"decoder_{number}")
        encoded = outputs[-1] if last else decoder.normalize(outputs[number - 1])
        tokens, prefix = decoder.embed_tokens(encoded)
        prediction = decoder.predict(restore(decoder, tokens), prefix)
        return mean_pool(unpatchify(prediction, cells), max(size // stride, 1))
