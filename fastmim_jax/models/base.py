"""The contract of every backbone, and the types that it exchanges with methods and classifiers."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from fastmim_jax.models.layers import upsample_nearest
from fastmim_jax.models.typing import Array


class EncoderOutput(NamedTuple):
    """Tokens of a backbone.

    tokens: (B, h, w, D) for a grid, (B, n, D) for visible tokens alone.
    prefix: (B, K, D) tokens without a position in the image, such as cls; K is 0 for most backbones.
    """

    tokens: Array
    prefix: Array

    @property
    def cls(self) -> Array:
        """(B, D) cls, or the mean of several ones (as Pixio pools them), in the dtype of the tokens."""
        return self.prefix.mean(1)


class AttentionGroups(NamedTuple):
    """A partition of every image's cells; attention stays inside each group of cells.

    labels: (B, h, w), the group of each cell; integers or bools.
    indices: for each group the row-major indices of its cells, (G, n); each of the G rows holds for B / G
      consecutive images. () if group sizes differ between images.
    """

    labels: Array
    indices: tuple[Array, ...] = ()

    def upsample(self, factor: int) -> "AttentionGroups":
        """Return the same groups on a grid with factor x factor cells for each cell."""
        columns = self.labels.shape[2]
        offsets = np.add.outer(np.arange(factor) * columns * factor, np.arange(factor)).ravel()

        def finer(index: Array) -> Array:
            row, column = index // columns, index % columns
            first = (row * columns * factor + column) * factor
            return (first[..., None] + offsets).reshape(len(index), -1)

        return AttentionGroups(upsample_nearest(self.labels, factor), tuple(map(finer, self.indices)))


class Backbone(nn.Module):
    """Base class of all backbones: what methods, classifiers, training and export ask of them.

    A subclass implements the methods and properties that raise NotImplementedError here and declares what
    differs from the capabilities below; nothing is guessed from its fields. Images are (B, H, W, C) with
    sides that are multiples of `stride` and any number of channels.

    Attributes:
      drop_path: probability with which the last block drops a residual branch, see `drop_path_rates`.
      dtype: of the computation; parameters are float32.
      remat, layers, residual_dtype: see `Stack`.
    """

    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    layers: str = "unrolled"
    residual_dtype: DTypeLike | None = None

    # Capabilities.
    family: ClassVar[str]  # shared by all sizes: "vit"
    supports_groups: ClassVar[bool] = False  # `encode` takes AttentionGroups
    has_one_grid: ClassVar[bool] = False  # all blocks have the same grid: `grid_outputs`, `normalize`
    window_field: ClassVar[str | None] = None  # field with the side of attention windows

    # Values of backbones without a field of that name.
    positions = "none"  # added to the tokens: "none", "fixed" (sine-cosine) or "learned"
    # (rows, columns) of the sine-cosine table that is resampled; None: the image's
    position_grid = cast("tuple[int, int] | None", None)
    norm_groups = 1  # groups of a batch with batch-norm statistics of their own
    class_tokens = 1  # prefix tokens of a backbone that `has_cls_token`

    # Published training and fine-tuning.
    pooling: ClassVar[str] = "norm_pool"  # of the published classifier, a key of `heads.POOLINGS`
    resampling: ClassVar[Mapping[str, Callable]] = {}  # schemes other than those of `resample.RULES`
    official_no_decay: ClassVar[tuple[str, ...]] = ()  # arrays with several axes without weight decay
    official_tail_groups: ClassVar[int] = 1  # layer-decay groups from the last block to the head
    official_decoder_epsilon: ClassVar[float] = 1e-5  # of the norms of the published decoder
    official_stage_norms: ClassVar[bool] = False  # published dense prediction normalises every stage
    finetunes_learned_positions: ClassVar[bool] = False  # fixed positions become learned in fine-tuning

    @property
    def has_cls_token(self) -> bool:
        """Whether the prefix tokens summarise the image."""
        return False

    @property
    def supports_token_dropping(self) -> bool:
        """Whether `encode_visible` works."""
        return False

    @property
    def supports_cudnn(self) -> bool:
        """Whether it trains with the attention kernel "cudnn", or has no such attention at all."""
        return True

    @property
    def attention_kernel(self) -> str:
        """Kernel of its attention on the mesh that is set, see `describe_kernel`; "" without attention."""
        return "xla" if self.stage_heads else ""

    @property
    def stride(self) -> int:
        """Pixels per output token, along one side."""
        raise NotImplementedError

    @property
    def embed_stride(self) -> int:
        """Pixels per token of `embed`, along one side."""
        raise NotImplementedError

    @property
    def num_blocks(self) -> int:
        """Number of blocks, in all stages."""
        raise NotImplementedError

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Name of each entry of `outputs`: ("block 1", ...) or ("stage 1", ...)."""
        raise NotImplementedError

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Pixels per token, along one side, of each entry of `outputs`."""
        raise NotImplementedError

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage; of the one stage without a pyramid."""
        raise NotImplementedError

    @property
    def stage_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage; () without attention."""
        return ()

    def __call__(self, images: Float[Array, "B H W C"]) -> EncoderOutput:
        """Return the normalised tokens of images."""
        return self.encode(self.embed(images))

    def embed(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Return the tokens of the first stage, without positions.

        Raises:
          ValueError: sides that are not multiples of `stride`.
        """
        raise NotImplementedError

    def transform(self, tokens: Float[Array, "B h w D"]) -> EncoderOutput:
        """Return the tokens after the last block, before the last norm, for those of `embed`."""
        raise NotImplementedError

    def encode(self, tokens: Float[Array, "B h w D"]) -> EncoderOutput:
        """Return the normalised tokens for those of `embed`.

        With `supports_groups` it takes AttentionGroups of the last grid as a second argument.
        """
        raise NotImplementedError

    def outputs(self, images: Float[Array, "B H W C"]) -> list[EncoderOutput]:
        """Return the tokens after each layer of `layer_names`; the last are normalised."""
        raise NotImplementedError

    def features(self, images: Float[Array, "B H W C"]) -> list[Float[Array, "B _h _w _D"]]:
        """Return the grids for dense prediction, by default those of `outputs`."""
        return [output.tokens for output in self.outputs(images)]

    def encode_visible(self, images: Float[Array, "B H W C"], ids_keep: Int[Array, "B n"]) -> EncoderOutput:
        """Encode the visible tokens alone; needs `supports_token_dropping`.

        Args:
          ids_keep: row-major indices of the visible tokens.

        Returns:
          Normalised tokens (B, n, D), in the order of `ids_keep`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot drop tokens")

    def visible_outputs(
        self, images: Float[Array, "B H W C"], ids_keep: Int[Array, "B n"]
    ) -> list[EncoderOutput]:
        """Return the embedded visible tokens, then the output of each block; none are normalised.

        It needs `has_one_grid` and `supports_token_dropping`; arguments are those of `encode_visible`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot drop tokens")

    def grid_outputs(self, tokens: Float[Array, "B h w D"]) -> list[EncoderOutput]:
        """Return the tokens of `embed` with positions, then the output of each block; none are normalised.

        It needs `has_one_grid`.
        """
        raise NotImplementedError(f"{type(self).__name__} has several grids")

    def normalize(self, encoded: EncoderOutput) -> EncoderOutput:
        """Apply the last norm; needs `has_one_grid`."""
        raise NotImplementedError(f"{type(self).__name__} has several grids")

    def layer_group(self, path: str) -> int:
        """Return the group of a parameter for layer-wise learning rates, as in published fine-tuning.

        0 is the input, then one group per block; `num_blocks` + 1 is the last norm's.

        Args:
          path: of a parameter of this module, joined by "/".
        """
        raise NotImplementedError


def with_identity_norm(
    variables: Mapping[str, Any], encoder: Backbone, image_shape: tuple[int, int, int]
) -> Mapping[str, Any]:
    """Return the variables with an identity last norm, if the backbone of a classifier lacks its own.

    Classifiers that normalise after pooling have no parameters for the last norm of their backbone.

    Args:
      variables: of the backbone.
      image_shape: (H, W, C).
    """
    if not variables or "norm" in variables["params"]:
        return variables
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    norm = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"].get("norm", {})
    if not norm:
        return variables
    identity = {name: np.full(x.shape, name == "scale", x.dtype) for name, x in norm.items()}
    return {**variables, "params": {**variables["params"], "norm": identity}}
