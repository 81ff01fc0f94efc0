"""Classifier heads: pooling of a backbone's tokens, and a linear layer.

Source: FastMIM's `models_vit.py` and `mim_{swin,pvtv2,cmt}_finetune.py`, whose four families differ in
where they normalise and pool.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from fastmim_jax.models.base import Backbone, EncoderOutput
from fastmim_jax.models.convolution import BatchNorm
from fastmim_jax.models.device import rows_of_shard
from fastmim_jax.models.layers import PatchEmbed, layer_norm
from fastmim_jax.models.typing import Array

head_init = nn.initializers.normal(2e-5)  # as published; its truncation at +-2 has no effect


class PoolNorm(nn.Module):
    """ViT's pooling: the mean of the patches, then its own norm."""

    encoder_norm: ClassVar[bool] = False  # whether it pools tokens that the backbone has normalised
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B D"]:
        return layer_norm(self.epsilon, self.dtype, name="norm")(encoded.tokens.mean((1, 2)))


class NormPool(nn.Module):
    """Swin's pooling: its own norm, then the mean."""

    encoder_norm: ClassVar[bool] = False
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B D"]:
        return layer_norm(self.epsilon, self.dtype, name="norm")(encoded.tokens).mean((1, 2))


class Pool(nn.Module):
    """PVT's pooling: the mean of the tokens that the backbone has normalised."""

    encoder_norm: ClassVar[bool] = True
    dtype: DTypeLike = jnp.float32

    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B D"]:
        return encoded.tokens.mean((1, 2))


class Cls(nn.Module):
    """The cls token that the backbone has normalised; the mean of several ones."""

    encoder_norm: ClassVar[bool] = True
    dtype: DTypeLike = jnp.float32

    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B D"]:
        return encoded.cls


class WidePool(nn.Module):
    """CMT's pooling: a wide linear layer, batch norm and Swish, then the mean."""

    encoder_norm: ClassVar[bool] = False
    width: int = 1280
    norm_groups: int = 1
    dropout: float = 0.1  # if there is a "dropout" generator
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, encoded: EncoderOutput) -> Float[Array, "B {self.width}"]:
        kernel_init, bias_init = nn.initializers.he_normal(), nn.initializers.zeros
        x = PatchEmbed(1, self.width, self.dtype, kernel_init, bias_init, name="fc")(encoded.tokens)
        x = nn.swish(BatchNorm(self.norm_groups, dtype=self.dtype, name="norm")(x)).mean((1, 2))
        return Dropout(self.dropout, name="Dropout_0")(x) if self.has_rng("dropout") else x


class Dropout(nn.Module):
    """Dropout with the "dropout" generator; a shard of the batch drops what it drops in the batch."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        key, keep_rate = self.make_rng("dropout"), 1 - self.rate

        def draw(rows):
            return jax.random.bernoulli(key, keep_rate, (rows, *x.shape[1:]))

        return jnp.where(rows_of_shard(draw, len(x)), x / keep_rate, 0)


POOLINGS = {"pool_norm": PoolNorm, "norm_pool": NormPool, "pool": Pool, "cls": Cls, "wide_pool": WidePool}


class Classifier(nn.Module):
    """A backbone, a pooling and a linear layer.

    Attributes:
      encoder: the backbone.
      classes: number of classes.
      pooling: a key of POOLINGS; None: the one published with the backbone.
      options: keyword arguments of the pooling.
    """

    encoder: Backbone
    classes: int
    pooling: str | None = None
    options: Mapping[str, Any] | None = None

    def setup(self):
        options = dict(self.options or {}, dtype=self.encoder.dtype)
        self.pool = POOLINGS[self.pooling or self.encoder.pooling](**options, name="pooling")
        self.head = nn.Dense(self.classes, kernel_init=head_init)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B {self.classes}"]:
        """Return the float32 logits of normalised images."""
        return self.head(self.pooled(images))

    def pooled(self, images: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Return the float32 input of the head for normalised images."""
        encode = self.encoder.encode if self.pool.encoder_norm else self.encoder.transform
        return self.pool(encode(self.encoder.embed(images))).astype(jnp.float32)
