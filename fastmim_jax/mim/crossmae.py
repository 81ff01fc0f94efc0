"""CrossMAE (arXiv 2401.14391): MAE whose decoder has cross-attention only and predicts some masked patches.

Source: the published `models_cross.py`.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.output import Output
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.cross_decoder import CrossDecoder
from fastmim_jax.models.layers import gather_rows, token_init, upsample_nearest
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.positions import sincos_positions
from fastmim_jax.models.typing import Array

FEATURE_MAPS = ("all", "last")


class CrossMAE(Method):
    """CrossMAE over a backbone with `supports_token_dropping` and `has_one_grid`.

    Attributes:
      encoder, target, block_size, mask_ratio: see `Method`; a block is a patch of the encoder.
      decoder: keyword arguments of the CrossDecoder.
      throw_ratio: share of an image's patches that are masked and not predicted, rounded down; they are
        the masked ones with the least noise.
      feature_maps: "last": the decoder attends to the encoder's output; "all": every block attends to a
        learned sum of the embedded patches and the outputs of all blocks.
    """

    decoder: Mapping
    throw_ratio: float = 0.0
    feature_maps: str = "all"

    def num_thrown(self, num_blocks: int) -> int:
        """Return how many of `num_blocks` are masked and not predicted."""
        return int(num_blocks * self.throw_ratio)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], noise: Float[Array, "B N"] | None = None) -> Output:
        """Return the Output for normalised images; without `noise`, it comes from the "mask" stream."""
        noise = self.draw_noise(images) if noise is None else noise
        size, count = self.encoder.stride, noise.shape[1]
        grid = (images.shape[1] // size, images.shape[2] // size)
        num_visible = count - self.num_masked(count)
        start = num_visible + self.num_thrown(count)  # of the predicted patches in ids_shuffle
        ids_shuffle, ids_restore = shuffle_ids(noise)

        maps = self._feature_maps(images, ids_shuffle[:, :num_visible])
        decoder = CrossDecoder(self.target.values(size, images.shape[-1]), **self.decoder, name="decoder")
        ids_predict = ids_shuffle[:, start:]
        positions = jnp.asarray(sincos_positions(*grid, decoder.width), decoder.dtype)
        positions = positions.reshape(count, -1)[ids_predict]
        mask_token = self.param("mask_token", token_init, (1, 1, decoder.width))
        prediction = decoder(broadcast_parameter(mask_token, positions) + positions, maps)
        prediction = gather_rows(prediction, ids_restore - start, ids_predict).reshape(
            len(images), *grid, -1
        )

        target, ranks = self.target(images, size), ids_restore.reshape(-1, *grid)
        mask, weight = ranks >= num_visible, (ranks >= start).astype(jnp.float32)
        encoder_input = jnp.where(upsample_nearest(mask, size)[..., None], 0.0, images)
        mask = mask.astype(jnp.float32)
        loss = self.loss_fn(prediction, target, weight)
        return Output(loss, prediction, target, mask, encoder_input, weight, mask - weight)

    def _feature_maps(self, images: Array, ids_keep: Array) -> list[Array]:
        outputs = self.encoder.visible_outputs(images, ids_keep)
        # Published runs with all maps have no last norm; here it stays as initialised, for probes.
        last = self.encoder.normalize(outputs[-1])
        return [_sequence(x) for x in (outputs if self.feature_maps == "all" else [last])]


def _sequence(encoded: EncoderOutput) -> Array:
    return jnp.concatenate([encoded.prefix, encoded.tokens], axis=1)
