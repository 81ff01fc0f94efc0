"""Partial reconstruction (PR-MIM, arXiv 2411.15746): some hidden tokens pass the decoder, the rest do not.

Those thrown out are filled in from their neighbours afterwards and count in the loss. The paper's code was
never published; what is not in its abstract was designed here (see `experiments/partial_reconstruction`).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.mim import fill as fills
from fastmim_jax.mim.masking import shuffle_ids
from fastmim_jax.mim.sampling import SAMPLERS, random_ranks, squared_distance
from fastmim_jax.models.layers import gather_rows


class Reconstruction(NamedTuple):
    """What a decoder made of a grid of tokens, hidden ones among them.

    prediction: (B, h, w, P) float32; zeros where nothing was predicted.
    weight: (B, h, w) float32, what a token counts in the loss if it is hidden.
    thrown: (B, h, w) float32, 1 = hidden and not decoded.
    """

    prediction: jax.Array
    weight: jax.Array
    thrown: jax.Array


def decode_all(decoder, tokens, prefix, hidden, counts, noise):
    """Everything passes the decoder; arguments as of `Partial`."""
    nothing = jnp.zeros(tokens.shape[:3], jnp.float32)
    return Reconstruction(decoder.predict(tokens, prefix), nothing + 1, nothing)


class Partial(nn.Module):
    """Decodes a part of the hidden tokens and fills in the rest.

    Attributes:
      throw_ratio: share of an image's tokens that are not decoded, rounded down. Of MAE's hidden 75 %,
        0.5 leaves 25 % to be decoded.
      sampler: which hidden tokens are decoded: a key of SAMPLERS.
      fill: how the others are made: a key of FILLS; "none" leaves them out of the loss.
      aggregate: a key of SOURCES: what they are made from.
      stages: of the progressive fill; the tokens nearest to what is known come first.
      thrown_weight: what a thrown token counts in the loss; a decoded one counts 1.
    """

    throw_ratio: float
    sampler: str = "furthest"
    fill: str = "progressive"
    aggregate: str = "decoded_and_visible"
    stages: int = 2
    thrown_weight: float = 1.0

    @nn.compact
    def __call__(self, decoder, tokens, prefix, hidden, counts, noise):
        """Reconstructs a grid.

        Args:
          decoder: a bound Decoder.
          tokens: (B, h, w, width), all that the decoder would be given, mask tokens and positions put in.
          prefix: (B, K, width).
          hidden: (B, h, w) bool.
          counts: how many tokens of a grid are hidden; for an image that is spread over several grids,
            of each of them. The number thrown is the same for all.
          noise: (n, ...) float32, what the mask was made of; n divides B.

        Raises:
          UserError: no hidden token would be left to decode.
        """
        batch, *grid, width = tokens.shape
        cells, most = grid[0] * grid[1], max(counts)
        thrown = self._thrown_count(cells, counts)
        if not thrown:
            return decode_all(decoder, tokens, prefix, hidden, counts, noise)
        hidden = hidden.reshape(batch, cells)
        rank = random_ranks(noise, batch, cells)
        wanted = hidden.sum(1, dtype=jnp.int32) - thrown
        decoded = SAMPLERS[self.sampler](hidden, rank, wanted, most - thrown, grid)
        order, place = _sort_tokens(hidden, decoded, rank, grid)

        kept = cells - thrown  # the first places are decoded, the others are thrown
        x = gather_rows(tokens.reshape(batch, cells, width), order[:, :kept], place)
        x = gather_rows(decoder.transform(x, prefix), place, order[:, :kept])
        end, thrown_weight = kept, 0.0  # of the places that get a prediction
        fill = self._fill(cells, counts)
        if fill:
            stage = jnp.where(place < kept, 0, 1 + (place - kept) * self.stages // thrown)
            known = SOURCES[self.aggregate](hidden, decoded)
            x = fill(*_on_grid(grid, x, known, stage)).reshape(x.shape)
            end, thrown_weight = cells, self.thrown_weight

        begin = cells - most  # visible tokens, the first places, need none
        asked = order[:, begin:end]
        x = decoder.head(gather_rows(x, asked, place - begin))
        prediction = gather_rows(x, place - begin, asked).astype(jnp.float32)
        weight = jnp.where(place < kept, 1.0, thrown_weight)
        return Reconstruction(*_on_grid(grid, prediction, weight, (place >= kept).astype(jnp.float32)))

    def _thrown_count(self, cells, counts):
        """Of each grid."""
        thrown = int(cells * self.throw_ratio / len(counts))
        if thrown >= min(counts):
            fitting = int(100 * len(counts) * (min(counts) - 1) / cells) / 100
            raise UserError(
                f"config.method.partial.throw_ratio is {self.throw_ratio}, which throws {thrown} of "
                f"{min(counts)} hidden tokens and leaves none to decode: type at most "
                f"--config.method.partial.throw_ratio={fitting}"
            )
        return thrown

    def _fill(self, cells, counts):
        known = cells - self._thrown_count(cells, counts)
        if self.aggregate == "decoded":
            known -= cells - min(counts)
        return FILLS[self.fill](self.stages, 1 if 4 * known >= cells else 2)


def _on_grid(grid, *arrays):
    """(B, N, ...) of each -> (B, h, w, ...)."""
    return tuple(array.reshape(len(array), *grid, *array.shape[2:]) for array in arrays)


def _sort_tokens(hidden, decoded, rank, grid):
    """Visible, then decoded, then thrown tokens, these by their distance to what is decoded.

    Returns:
      The tokens in that order, and the place of each in it; both (B, N).
    """
    cells = hidden.shape[1]
    thrown = hidden & ~decoded
    distance = jnp.where(thrown, 2 + squared_distance(decoded, grid), decoded)
    return shuffle_ids(distance * cells + rank)


SOURCES = {
    "decoded": lambda hidden, decoded: decoded,
    "decoded_and_visible": lambda hidden, decoded: decoded | ~hidden,
}
FILLS = {
    "progressive": lambda stages, radius: fills.Progressive(stages, radius, name="fill"),
    "nearest": lambda stages, radius: fills.Nearest(name="fill"),
    "inverse_distance": lambda stages, radius: fills.InverseDistance(name="fill"),
    "none": lambda stages, radius: None,
}
