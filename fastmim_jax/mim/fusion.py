"""Fusion of several layers of the encoder before the decoder (MFF, arXiv 2308.00261).

Source: `mmpretrain/models/selfsup/mff.py`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.linear import Dense, broadcast_parameter
from fastmim_jax.models.typing import Array


class LayerFusion(nn.Module):
    """Sum of the outputs of some blocks, weighted by the softmax of learned numbers, initially equal.

    All but the last one pass a linear layer of their own first.

    Attributes:
      layers: numbers of the blocks from 1, in ascending order.
    """

    layers: tuple[int, ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, outputs: Sequence[EncoderOutput]) -> EncoderOutput:
        """Return the fused tokens and prefix, both before the encoder's last norm.

        Args:
          outputs: the embedded tokens, then the output of each block, as from `Backbone.grid_outputs`.
        """
        shares = jax.nn.softmax(self.param("layer_weights", nn.initializers.ones, (len(self.layers),)))
        tokens, prefix = outputs[self.layers[-1]]
        tokens, prefix = (_scaled(shares[-1], x) for x in (tokens, prefix))
        for share, number in zip(shares[:-1], self.layers[:-1], strict=True):
            project = Dense(tokens.shape[-1], self.dtype, name=f"block_{number}")
            tokens, prefix = (
                total + _scaled(share, project(x))
                for total, x in zip((tokens, prefix), outputs[number], strict=True)
            )
        return EncoderOutput(tokens, prefix)


def _scaled(share: Array, x: Array) -> Array:
    return broadcast_parameter(share, x) * x
