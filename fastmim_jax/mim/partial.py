"""Partial reconstruction (PR-MIM, arXiv 2411.15746): the decoder sees only some of the masked tokens.

The others, thrown out, are filled in from their neighbours after the decoder and are part of the loss. The
paper's code was never published; details beyond its abstract are designs of this project (see
`experiments/partial_reconstruction`).
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from fastmim_jax.mim import fill as fills
from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.sampling import SAMPLERS, random_ranks, squared_distance_transform
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.layers import gather_rows
from fastmim_jax.models.typing import Array


class Reconstruction(NamedTuple):
    """Predictions for a grid of tokens.

    prediction: float32; zeros where nothing is predicted.
    weight: float32 weight of a token in the loss, should it be masked.
    thrown: float32, 1 = masked and not decoded.
    """

    prediction: Float[Array, "B h w P"]
    weight: Float[Array, "B h w"]
    thrown: Float[Array, "B h w"]


def decode_all(
    decoder: Decoder,
    tokens: Float[Array, "B h w D"],
    prefix: Float[Array, "B K D"],
    mask: Bool[Array, "B rows columns"],
    num_masked: tuple[int, ...],
    noise: Float[Array, " n *rest"],
) -> Reconstruction:
    """Decode every token; see `PartialReconstruction` for the arguments. The mask may have any grid."""
    zeros = jnp.zeros(tokens.shape[:3], jnp.float32)
    return Reconstruction(decoder.predict(tokens, prefix), zeros + 1, zeros)


class PartialReconstruction(nn.Module):
    """Decode some of the masked tokens and fill in the others.

    Attributes:
      throw_ratio: share of an image's tokens that are not decoded; their number is rounded down. With 75 %
        masked tokens, 0.5 leaves 25 % to decode.
      sampler: a key of SAMPLERS, which chooses the masked tokens to decode.
      fill: a key of FILLS, which computes the others; "none" leaves them out of the loss.
      aggregate: a key of SOURCES, the tokens that a fill observes.
      stages: of the progressive fill; tokens nearest to decoded ones come first.
      thrown_weight: weight of a thrown token in the loss; that of a decoded one is 1.
    """

    throw_ratio: float
    sampler: str = "furthest"
    fill: str = "progressive"
    aggregate: str = "decoded_and_visible"
    stages: int = 2
    thrown_weight: float = 1.0

    @nn.compact
    def __call__(
        self,
        decoder: Decoder,
        tokens: Float[Array, "B h w D"],
        prefix: Float[Array, "B K D"],
        mask: Bool[Array, "B h w"],
        num_masked: tuple[int, ...],
        noise: Float[Array, " n *rest"],
    ) -> Reconstruction:
        """Reconstruct a grid of tokens.

        Args:
          decoder: a bound Decoder.
          tokens: the decoder's full input, with mask tokens and positions.
          prefix: tokens without a position in the image, such as cls.
          mask: True = masked.
          num_masked: masked tokens of a grid, one entry per grid that an image is spread over (MixMIM: two
            streams). Each grid throws the same number of tokens.
          noise: float32 noise that the mask was made from; n divides B.

        Raises:
          ValueError: no masked token would be decoded.
        """
        batch, rows, columns, width = tokens.shape
        grid, num_tokens, max_masked = (rows, columns), rows * columns, max(num_masked)
        num_thrown = self.num_thrown(num_tokens, num_masked)
        if num_thrown >= min(num_masked):
            raise ValueError(
                f"{num_thrown} of {min(num_masked)} masked tokens are thrown, which leaves none to decode"
            )
        if not num_thrown:
            return decode_all(decoder, tokens, prefix, mask, num_masked, noise)
        mask = mask.reshape(batch, num_tokens)
        ranks = random_ranks(noise, batch, num_tokens)
        num_decoded = mask.sum(1, dtype=jnp.int32) - num_thrown
        decoded = SAMPLERS[self.sampler](mask, ranks, num_decoded, max_masked - num_thrown, grid)
        ids_shuffle, ids_restore = _sort_tokens(mask, decoded, ranks, grid)

        num_keep = num_tokens - num_thrown  # visible and decoded tokens, first in ids_shuffle
        ids_keep = ids_shuffle[:, :num_keep]
        x = gather_rows(tokens.reshape(batch, num_tokens, width), ids_keep, ids_restore)
        x = gather_rows(decoder.transform(x, prefix), ids_restore, ids_keep)
        stop, thrown_weight = num_keep, 0.0
        fill = self._fill(num_tokens, num_masked)
        if fill:
            turn = (ids_restore - num_keep) * self.stages // num_thrown
            stage = jnp.where(ids_restore < num_keep, 0, 1 + turn)
            observed = SOURCES[self.aggregate](mask, decoded)
            x = fill(*_on_grid(grid, x, observed, stage)).reshape(x.shape)
            stop, thrown_weight = num_tokens, self.thrown_weight

        start = num_tokens - max_masked  # the first tokens are visible and need no prediction
        ids_predict = ids_shuffle[:, start:stop]
        x = decoder.head(gather_rows(x, ids_predict, ids_restore - start))
        prediction = gather_rows(x, ids_restore - start, ids_predict).astype(jnp.float32)
        weight = jnp.where(ids_restore < num_keep, 1.0, thrown_weight)
        thrown = (ids_restore >= num_keep).astype(jnp.float32)
        return Reconstruction(*_on_grid(grid, prediction, weight, thrown))

    def num_thrown(self, num_tokens: int, num_masked: tuple[int, ...]) -> int:
        """Return the number of thrown tokens of each grid; arguments as of the call."""
        return int(num_tokens * self.throw_ratio / len(num_masked))

    def _fill(self, num_tokens: int, num_masked: tuple[int, ...]) -> nn.Module | None:
        num_observed = num_tokens - self.num_thrown(num_tokens, num_masked)
        if self.aggregate == "decoded":
            num_observed -= num_tokens - min(num_masked)
        return FILLS[self.fill](self.stages, 1 if 4 * num_observed >= num_tokens else 2)


def _on_grid(grid: tuple[int, int], *arrays: Array) -> tuple[Array, ...]:
    """(B, N, ...) of each -> (B, h, w, ...)."""
    return tuple(array.reshape(len(array), *grid, *array.shape[2:]) for array in arrays)


def _sort_tokens(mask: Array, decoded: Array, ranks: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Sort tokens: visible, then decoded, then thrown ones by their distance to the decoded.

    Returns:
      ids_shuffle and ids_restore, both (B, N).
    """
    thrown = mask & ~decoded
    distance = jnp.where(thrown, 2 + squared_distance_transform(decoded, grid), decoded)
    return shuffle_ids(distance * mask.shape[1] + ranks)


SOURCES = {
    "decoded": lambda mask, decoded: decoded,
    "decoded_and_visible": lambda mask, decoded: decoded | ~mask,
}
FILLS = {
    "progressive": lambda stages, radius: fills.Progressive(stages, radius, name="fill"),
    "nearest": lambda stages, radius: fills.Nearest(name="fill"),
    "inverse_distance": lambda stages, radius: fills.InverseDistance(name="fill"),
    "none": lambda stages, radius: None,
}
