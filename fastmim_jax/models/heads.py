"""From what a backbone makes of an image to classes.

Source: FastMIM's `models_vit.py` and `mim_{swin,pvtv2,cmt}_finetune.py`, whose four families differ in
where they normalise and pool.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fastmim_jax.models.convolution import BatchNorm
from fastmim_jax.models.layers import PatchEmbed, layer_norm

head_init = nn.initializers.normal(2e-5)  # as published; its truncation at +-2 does nothing


class PoolNorm(nn.Module):
    """ViT's: the mean of the patches, then a norm of its own; (B, h, w, D) -> (B, D)."""

    encoding = "transform"
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, encoded):
        return layer_norm(self.epsilon, self.dtype, name="norm")(encoded.tokens.mean((1, 2)))


class NormPool(nn.Module):
    """Swin's: a norm of its own, then the mean; (B, h, w, D) -> (B, D)."""

    encoding = "transform"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, encoded):
        return layer_norm(self.epsilon, self.dtype, name="norm")(encoded.tokens).mean((1, 2))


class Pool(nn.Module):
    """PVT's: the mean of what the backbone itself has normalised; (B, h, w, D) -> (B, D)."""

    encoding = "encode"
    dtype: Any = jnp.float32

    def __call__(self, encoded):
        return encoded.tokens.mean((1, 2))


class Cls(nn.Module):
    """The cls token, normalised by the backbone; (B, 1, D) -> (B, D)."""

    encoding = "encode"
    dtype: Any = jnp.float32

    def __call__(self, encoded):
        return encoded.prefix[:, 0]


class WidePool(nn.Module):
    """CMT's: a wide layer, batch norm and Swish, then the mean; (B, h, w, D) -> (B, width)."""

    encoding = "transform"
    width: int = 1280
    norm_groups: int = 1
    dropout: float = 0.1  # where a "dropout" generator is given
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, encoded):
        init = dict(kernel_init=nn.initializers.he_normal(), bias_init=nn.initializers.zeros)
        x = PatchEmbed(1, self.width, self.dtype, **init, name="fc")(encoded.tokens)
        x = nn.swish(BatchNorm(self.norm_groups, dtype=self.dtype, name="norm")(x)).mean((1, 2))
        return nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)


POOLINGS = {"pool_norm": PoolNorm, "norm_pool": NormPool, "pool": Pool, "cls": Cls, "wide_pool": WidePool}


class Classifier(nn.Module):
    """A backbone, a pooling and a linear layer.

    Attributes:
      encoder: any backbone.
      classes: number of them.
      pooling: a key of POOLINGS; None for the one that was published with the backbone.
      options: keyword arguments of the pooling.
    """

    encoder: nn.Module
    classes: int
    pooling: str | None = None
    options: Mapping | None = None

    def setup(self):
        options = dict(self.options or {}, dtype=self.encoder.dtype)
        self.pool = POOLINGS[self.pooling or self.encoder.pooling](**options, name="pooling")
        self.head = nn.Dense(self.classes, kernel_init=head_init)

    def __call__(self, images):
        """(B, H, W, C) normalised images -> logits (B, classes) float32."""
        return self.head(self.pooled(images))

    def pooled(self, images):
        """(B, H, W, C) normalised images -> what the head sees, (B, D) float32."""
        encode = getattr(self.encoder, self.pool.encoding)
        return self.pool(encode(self.encoder.embed(images))).astype(jnp.float32)
