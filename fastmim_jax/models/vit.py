"""Vision transformer, with a cls token as used by MAE, FastMIM and, with relative positions, SimMIM.

Sources: FastMIM's `mim_vit_pretrain.py` and `models_vit.py`, which differ in their number of heads, and
SimMIM's `vision_transformer.py`.
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from fastmim_jax.models.attention import RelativePositionBias, TransformerBlock, TransformerStack
from fastmim_jax.models.attention_kernels import describe_kernel
from fastmim_jax.models.base import Backbone, EncoderOutput
from fastmim_jax.models.layers import PatchEmbed, layer_norm, patchify, token_init
from fastmim_jax.models.linear import broadcast_parameter
from fastmim_jax.models.positions import make_positions
from fastmim_jax.models.stack import drop_path_rates
from fastmim_jax.models.typing import Array

# The arrays that all blocks share (see `TransformerBlock`), from an array with the shape of the grid.
RELATIVE_POSITIONS = {
    "none": lambda cells, batch, table: (),
    "shared": lambda cells, batch, table: (table(cells, batch),),
    "own": lambda cells, batch, table: (None, cells),
}


class ViT(Backbone):
    """Vision transformer for images whose sides are multiples of `patch_size`.

    Attributes:
      positions: "fixed" sine-cosine ones; "learned" (for images of one size), as in published fine-tuning;
        or "none". cls has a learned one if the patches do.
      relative_positions: "none", or a learned bias of the attention scores (for images of one size): one
        table for all blocks, "shared", or one per block, "own".
      layer_scale: initial value of the LayerScale of every branch; None: no LayerScale.
      position_grid: (h, w) of the sine-cosine table, which is resampled to the image's grid as in published
        fine-tuning, and initialises learned positions; None: the image's own grid.
      class_token: whether a cls token comes before the patches.
      class_tokens: number of cls tokens, if there is one (Pixio, arXiv 2512.15715, has 8). Each is learned,
        and has a learned position of its own if the patches do.
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    positions: str = "fixed"
    mlp_ratio: float = 4.0
    epsilon: float = 1e-6
    kernel: str = "auto"
    relative_positions: str = "none"
    layer_scale: float | None = None
    position_grid: tuple[int, int] | None = None
    class_token: bool = True
    class_tokens: int = 1

    family = "vit"
    pooling = "pool_norm"
    has_one_grid = True
    official_no_decay = ("cls_token",)
    official_decoder_epsilon = 1e-6
    finetunes_learned_positions = True

    @property
    def has_cls_token(self) -> bool:
        """Whether the prefix is a cls token."""
        return self.class_token

    @property
    def stride(self) -> int:
        """Pixels per token, along one side."""
        return self.patch_size

    @property
    def embed_stride(self) -> int:
        """Pixels per token, along one side."""
        return self.patch_size

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return self.depth

    @property
    def layer_names(self) -> tuple[str, ...]:
        """("block 1", "block 2", ...)."""
        return tuple(f"block {number}" for number in range(1, self.depth + 1))

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Pixels per token after each block."""
        return (self.patch_size,) * self.depth

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels, of the one stage."""
        return (self.width,)

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads, of the one stage."""
        return (self.heads,)

    @property
    def supports_token_dropping(self) -> bool:
        """Whether `encode_visible` works: not with relative positions."""
        return self.relative_positions == "none"

    @property
    def supports_cudnn(self) -> bool:
        """Whether the kernel "cudnn" trains it: it has no gradient of relative positions."""
        return self.relative_positions == "none"

    @property
    def attention_kernel(self) -> str:
        """Kernel of its attention on the mesh that is set, see `describe_kernel`."""
        has_bias = self.relative_positions != "none"
        return describe_kernel(self.kernel, self.dtype, self.width // self.heads, has_bias)

    def setup(self):
        self._check()
        self.patch_embed = PatchEmbed(self.patch_size, self.width, self.dtype)
        self.position = make_positions(self.positions, self.position_grid)
        self.relative_position = RelativePositionBias(self.heads)
        if self.class_token:
            self.cls_token = self.param("cls_token", token_init, (1, self.class_tokens, self.width))
        options = dict(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            epsilon=self.epsilon,
            kernel=self.kernel,
            dtype=self.dtype,
            layer_scale=self.layer_scale,
        )
        (rates,) = drop_path_rates(self.drop_path, (self.depth,))
        stack = self.remat, self.layers, rates, self.residual_dtype
        self.blocks = TransformerStack(TransformerBlock, self.depth, options, *stack)
        self.norm = layer_norm(self.epsilon, self.dtype, name="norm")

    def embed(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Return the embedded patches, without positions."""
        return self.patch_embed(images)

    def transform(self, tokens: Float[Array, "B h w D"]) -> EncoderOutput:
        """Return the tokens and cls after the last block, before the last norm, for those of `embed`."""
        return _split_cls(self._transform_sequence(tokens), tokens.shape)

    def encode(self, tokens: Float[Array, "B h w D"]) -> EncoderOutput:
        """Return the normalised tokens and cls for those of `embed`."""
        return _split_cls(self.norm(self._transform_sequence(tokens)), tokens.shape)

    def encode_visible(self, images: Float[Array, "B H W C"], ids_keep: Int[Array, "B n"]) -> EncoderOutput:
        """Encode the visible patches alone; needs `supports_token_dropping`.

        Args:
          ids_keep: row-major indices of the visible patches.

        Returns:
          Normalised tokens (B, n, D), in the order of `ids_keep`, and cls (B, K, D).
        """
        x = self.norm(self.blocks(self._visible_sequence(images, ids_keep)))
        return _split_visible(x, ids_keep)

    def visible_outputs(
        self, images: Float[Array, "B H W C"], ids_keep: Int[Array, "B n"]
    ) -> list[EncoderOutput]:
        """Return the embedded visible patches with their positions, then the output of each block."""
        x = self._visible_sequence(images, ids_keep)
        return [_split_visible(y, ids_keep) for y in (x, *self.blocks.outputs(x))]

    def grid_outputs(self, tokens: Float[Array, "B h w D"]) -> list[EncoderOutput]:
        """Return the tokens of `embed` with their positions, then the output of each block."""
        x = self._sequence(tokens)
        outputs = self.blocks.outputs(x, *self._relative_positions(tokens))
        return [_split_cls(y, tokens.shape) for y in (x, *outputs)]

    def normalize(self, encoded: EncoderOutput) -> EncoderOutput:
        """Return tokens and cls after the last norm."""
        return EncoderOutput(*(self.norm(x) if x.size else x for x in encoded))

    def _visible_sequence(self, images, ids_keep):
        """Return cls and the visible patches with their positions, (B, K + n, D)."""
        patches = patchify(images, self.patch_size)
        batch, *grid, values = patches.shape
        positions = self.position(jnp.zeros((1, *grid, self.width), self.dtype))
        ids_keep = ids_keep[..., None]
        # Gather pixels, not their embeddings: fewer products, and no gradient of the gather.
        patches = jnp.take_along_axis(patches.reshape(batch, -1, values), ids_keep, axis=1)
        positions = jnp.take_along_axis(positions.reshape(1, -1, self.width), ids_keep, axis=1)
        return self._with_cls(self.patch_embed.project(patches) + positions)

    def layer_group(self, path: str) -> int:
        """Return the group of a parameter for layer-wise learning rates, as in published fine-tuning.

        0 is the input, then one group per block. A shared table of relative positions is in the last group,
        with the norm, as SimMIM published it.

        Args:
          path: of a parameter of this module, joined by "/".
        """
        name, *rest = path.split("/")
        if name in ("cls_token", "position", "patch_embed"):
            return 0
        return 1 + int(rest[0]) if name == "blocks" else 1 + self.depth

    def outputs(self, images: Float[Array, "B H W C"]) -> list[EncoderOutput]:
        """Return the tokens and cls after each block; the last are normalised."""
        tokens = self.embed(images)
        *inner, last = self.blocks.outputs(self._sequence(tokens), *self._relative_positions(tokens))
        return [_split_cls(x, tokens.shape) for x in (*inner, self.norm(last))]

    def features(self, images: Float[Array, "B H W C"]) -> list[Float[Array, "B h w D"]]:
        """Return four grids, after each quarter of the blocks; the last is normalised.

        Fewer than four blocks give one grid each.
        """
        outputs = self.outputs(images)
        quarters = sorted({-(-self.depth * quarter // 4) for quarter in (1, 2, 3, 4)})
        return [outputs[number - 1].tokens for number in quarters]

    def _check(self):
        if self.relative_positions not in RELATIVE_POSITIONS:
            raise ValueError(
                f"unknown relative_positions '{self.relative_positions}'; choose from: "
                + ", ".join(RELATIVE_POSITIONS)
            )
        if self.relative_positions != "none" and not self.class_token:
            raise ValueError("relative_positions need a class_token, expected class_token=True")
        if self.relative_positions != "none" and self.class_tokens > 1:
            raise ValueError("relative_positions are of one cls token, expected class_tokens=1")
        if self.kernel == "cudnn" and not self.supports_cudnn:
            # No gradient of a bias over an odd number of tokens, which patches with cls mostly are.
            raise ValueError("kernel is 'cudnn', which cannot learn relative positions, expected 'xla'")

    def _transform_sequence(self, tokens):
        """Return cls and the tokens of a grid (B, h, w, D) after the last block, (B, K + h*w, D)."""
        return self.blocks(self._sequence(tokens), *self._relative_positions(tokens))

    def _relative_positions(self, tokens):
        cells = jnp.zeros(tokens.shape[1:3], jnp.int32)
        return RELATIVE_POSITIONS[self.relative_positions](cells, len(tokens), self.relative_position)

    def _sequence(self, tokens):
        """Return cls and the tokens of a grid (B, h, w, D) with their positions, (B, K + h*w, D)."""
        tokens = self.position(tokens)
        return self._with_cls(tokens.reshape(len(tokens), -1, self.width))

    def _with_cls(self, tokens):
        """Return (B, K + N, D): cls, if there is one, in front of tokens (B, N, D)."""
        if not self.class_token:
            return tokens
        prefix = jnp.zeros((len(tokens), self.class_tokens, self.width), tokens.dtype)
        cls = self.position.add_to_prefix(broadcast_parameter(self.cls_token, prefix))
        return jnp.concatenate([cls, tokens], axis=1)


def _split_visible(x, ids_keep):
    """Return a sequence (B, K + n, D) as an EncoderOutput of visible tokens."""
    prefix = x.shape[1] - ids_keep.shape[1]
    return EncoderOutput(x[:, prefix:], x[:, :prefix])


def _split_cls(x, shape):
    """Return a sequence (B, K + h*w, D) as an EncoderOutput whose grid has a shape (B, h, w, D)."""
    prefix = x.shape[1] - shape[1] * shape[2]
    return EncoderOutput(x[:, prefix:].reshape(shape), x[:, :prefix])


SIZES = {
    "ti": dict(width=192, depth=12, heads=3),
    "s": dict(width=384, depth=12, heads=6),
    "b": dict(width=768, depth=12, heads=12),
    "l": dict(width=1024, depth=24, heads=16),
    "h": dict(width=1280, depth=32, heads=16),
}
VARIANTS = {
    f"vit_{size}{patch}": (ViT, dict(patch_size=patch, **sizes))
    for size, sizes in SIZES.items()
    for patch in (4, 8, 14, 16)
}
