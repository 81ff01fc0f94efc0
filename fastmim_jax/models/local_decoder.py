"""The decoders of LocalMIM (arXiv 2303.05251): each predicts several cells per token of one encoder layer.

Source: `models_mim.py` of the published code for ViT.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.decoder import Decoder
from fastmim_jax.models.dense.layers import Upsample2
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.layers import PatchEmbed, layer_norm, restore_grid, token_init
from fastmim_jax.models.positions import FixedPositions
from fastmim_jax.models.typing import Array


class CellHead(nn.Module):
    """Values of the cells x cells parts of a token: 2 x 2 transposed convolutions, and a linear layer.

    Each of them halves the width; a layer norm and a GELU stand between two of them.

    Attributes:
      num_outputs: values of a token, in (row, column, value) order.
      cells: along one side, a power of two.
    """

    num_outputs: int
    cells: int
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch {self.num_outputs}"]:
        batch, grid = x.shape[:-1], x.reshape(-1, 1, 1, x.shape[-1])
        for step in range(self.cells.bit_length() - 1):
            if step:
                grid = gelu(layer_norm(self.epsilon, self.dtype, name=f"norm_{step}")(grid))
            grid = Upsample2(grid.shape[-1] // 2, self.dtype, name=f"up_{step}")(grid)
        linear = PatchEmbed(1, self.num_outputs // self.cells**2, self.dtype, None, None, name="linear")
        return linear.project(grid).reshape(*batch, -1)


class MaskTokens(nn.Module):
    """The grid of visible tokens with a learned token for all masked ones, and sine-cosine positions."""

    @nn.compact
    def __call__(
        self,
        visible: Float[Array, "B n D"],
        mask: Bool[Array, "B h w"],
        ids_restore: Int[Array, "B N"],
        ids_keep: Int[Array, "B n"],
    ) -> Float[Array, "B h w D"]:
        """Return the grid; arguments: see `restore_grid`."""
        mask_token = self.param("mask_token", token_init, (1, 1, visible.shape[-1]))
        return FixedPositions()(restore_grid(visible, mask_token, mask, ids_restore, ids_keep))


class LocalDecoder(Decoder):
    """A Decoder of one layer of the encoder, with a CellHead.

    Attributes:
      num_outputs: values predicted per token, in (row, column, value) order of its cells.
      cells: along one side of a token, a power of two.
    """

    cells: int = 1

    def setup(self):
        super().setup()
        # Both have parameters only where they are called.
        self.input_norm = layer_norm(self.epsilon, self.dtype, name="input_norm")
        self.mask_tokens = MaskTokens()

    def make_head(self) -> nn.Module:
        """Return the head of a token after the last norm."""
        return CellHead(self.num_outputs, self.cells, self.epsilon, self.dtype)

    def normalize(self, encoded: EncoderOutput) -> EncoderOutput:
        """Return the output of a layer that the encoder does not normalise, normalised."""
        return EncoderOutput(*(self.input_norm(x) if x.size else x for x in encoded))
