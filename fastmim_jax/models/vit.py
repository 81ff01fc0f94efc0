"""Vision transformer with a cls token, as MAE, FastMIM and, with relative positions, SimMIM use it.

Sources: FastMIM's `mim_vit_pretrain.py` and `models_vit.py`, which differ in their number of heads, and
SimMIM's `vision_transformer.py`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.models.attention import RelativePositions, TransformerBlock
from fastmim_jax.models.layers import (
    EncoderOutput,
    PatchEmbed,
    layer_norm,
    make_positions,
    patchify,
    token_init,
)
from fastmim_jax.models.stack import Stack, drop_path_rates

# What every block is given for a (h, w) array of cells, by `relative_positions`: see `Attention`.
RELATIVE = {
    "none": lambda cells, table: (),
    "shared": lambda cells, table: (table(cells),),
    "own": lambda cells, table: (None, cells),
}


class ViT(nn.Module):
    """Any image size whose sides are multiples of `patch_size`, any number of channels.

    positions: "fixed" sine-cosine ones; "learned" (for images of one size), as published fine-tuning
      has them; or "none". cls has a learned one where the patches do.
    relative_positions: "none"; or learned ones (for images of one size) that are added to the scores of
      attention, from one table for all blocks, "shared", or from every block's "own".
    layer_scale: what the learned factors of every block's results begin at; None for no such.
    drop_path: how often the last block drops a residual branch, see `drop_path_rates`.
    position_grid: (h, w) of the cells for which the sine-cosine table is made, fixed or the learned ones'
      start; images of another size get it resampled, as published fine-tuning does. None: made for theirs.
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    positions: str = "fixed"
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "xla"
    dtype: Any = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"
    relative_positions: str = "none"
    layer_scale: float | None = None
    drop_path: float = 0.0
    position_grid: tuple[int, int] | None = None

    supports_groups = False  # whether parts of an image can be kept apart
    pooling = "pool_norm"  # of the published classifier, see `fastmim_jax.models.heads`
    resampling = {}  # schemes of `resample.matrices_for` that published fine-tuning has of its own
    official_tail_groups = 1  # groups from the last block's to that of all that follows, as published
    official_no_decay = ("cls_token",)  # arrays with several axes that fine-tuning does not decay

    @property
    def stride(self):
        """Pixels per output cell, along one side."""
        return self.patch_size

    @property
    def num_blocks(self):
        """Number of blocks."""
        return self.depth

    @property
    def embed_stride(self):
        """Pixels per cell of `embed`, along one side."""
        return self.patch_size

    @property
    def supports_token_dropping(self):
        """Whether `encode_visible` can leave tokens out."""
        return self.relative_positions == "none"

    def setup(self):
        self._check()
        self.patch_embed = PatchEmbed(self.patch_size, self.width, self.dtype)
        self.position = make_positions(self.positions, self.position_grid)
        self.relative_position = RelativePositions(self.heads)
        self.cls_token = self.param("cls_token", token_init, (1, 1, self.width))
        options = dict(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            kernel=self.kernel,
            dtype=self.dtype,
            layer_scale=self.layer_scale,
        )
        (rates,) = drop_path_rates(self.drop_path, (self.depth,))
        self.blocks = Stack(TransformerBlock, self.depth, options, self.remat, self.layers, rates)
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def __call__(self, images):
        """(B, H, W, C) -> Encoded: tokens (B, h, w, D), prefix (B, 1, D) the cls token."""
        return self.encode(self.embed(images))

    def embed(self, images):
        """(B, H, W, C) -> (B, h, w, D), patches without positions."""
        return self.patch_embed(images)

    def transform(self, tokens):
        """(B, h, w, D) patches -> Encoded, not yet normalised."""
        return _encoded(self._transformed(tokens), tokens.shape)

    def encode(self, tokens):
        """(B, h, w, D) patches -> Encoded, normalised."""
        return _encoded(self.norm(self._transformed(tokens)), tokens.shape)

    def encode_visible(self, images, kept):
        """Encode the visible patches alone; needs `supports_token_dropping`.

        Args:
          images: (B, H, W, C).
          kept: (B, n) row-major indices of patches.

        Returns:
          Encoded: tokens (B, n, D), prefix (B, 1, D) the cls token; normalised.
        """
        patches = patchify(images, self.patch_size)
        batch, *grid, values = patches.shape
        positions = self.position(jnp.zeros((1, *grid, self.width), self.dtype))
        kept = kept[..., None]
        # Pixels are taken, not their projections: less to multiply, and nothing to differentiate.
        patches = jnp.take_along_axis(patches.reshape(batch, -1, values), kept, axis=1)
        positions = jnp.take_along_axis(positions.reshape(1, -1, self.width), kept, axis=1)
        x = self._with_cls(self.patch_embed.project(patches) + positions)
        x = self.norm(self.blocks(x))
        return EncoderOutput(x[:, 1:], x[:, :1])

    def layer_group(self, path):
        """The group of a parameter for layer-wise learning rates: 0 for the input, then one per block.

        A shared table of relative positions is in the last group, with the norm, as SimMIM published it.

        Args:
          path: of a parameter of this module, joined by "/".
        """
        name, *rest = path.split("/")
        if name in ("cls_token", "position", "patch_embed"):
            return 0
        return 1 + int(rest[0]) if name == "blocks" else 1 + self.depth

    def outputs(self, images):
        """(B, H, W, C) -> Encoded after each block, as of the call; the last is normalised."""
        tokens = self.embed(images)
        *inner, last = self.blocks.outputs(self._sequence(tokens), *self._relative(tokens))
        return [_encoded(x, tokens.shape) for x in (*inner, self.norm(last))]

    def features(self, images):
        """(B, H, W, C) -> four grids (B, h, w, D), after each quarter of the blocks; the last normed.

        Fewer than four blocks give one grid each.
        """
        outputs = self.outputs(images)
        quarters = sorted({-(-self.depth * quarter // 4) for quarter in (1, 2, 3, 4)})
        return [outputs[after - 1].tokens for after in quarters]

    def _check(self):
        if self.relative_positions not in RELATIVE:
            raise UserError(
                f"unknown relative_positions '{self.relative_positions}': there is {', '.join(RELATIVE)}; "
                "type --config.method.backbone.relative_positions=shared"
            )
        if self.kernel == "cudnn" and self.relative_positions != "none":
            # It gives no gradient of a bias over an odd number of tokens, as patches and cls mostly are.
            raise UserError(
                "config.method.kernel=cudnn cannot learn relative positions: type "
                "--config.method.kernel=xla"
            )

    def _transformed(self, tokens):
        """Grid (B, h, w, D) -> what the blocks make of it and cls, (B, 1 + h*w, D)."""
        return self.blocks(self._sequence(tokens), *self._relative(tokens))

    def _relative(self, tokens):
        cells = jnp.zeros(tokens.shape[1:3], jnp.int32)
        return RELATIVE[self.relative_positions](cells, self.relative_position)

    def _sequence(self, tokens):
        """Grid (B, h, w, D) -> (B, 1 + h*w, D): positions added, the cls token in front."""
        tokens = self.position(tokens)
        return self._with_cls(tokens.reshape(len(tokens), -1, self.width))

    def _with_cls(self, tokens):
        """(B, N, D) -> (B, 1 + N, D), the cls token in front."""
        cls = self.position.of_prefix(self.cls_token.astype(self.dtype))
        cls = jnp.broadcast_to(cls, (len(tokens), 1, self.width))
        return jnp.concatenate([cls, tokens], axis=1)


def _encoded(x, shape):
    """A sequence (B, 1 + h*w, D) -> Encoded, on the grid of a shape (B, h, w, D)."""
    return EncoderOutput(x[:, 1:].reshape(shape), x[:, :1])
