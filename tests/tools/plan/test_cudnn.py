"""cuDNN's attention without cuDNN."""

import jax
import jax.numpy as jnp

from fastmim_jax.models.attention_kernels import cudnn_attention
from fastmim_jax.tools.plan.cudnn import VERSION, assume_cudnn


def test_attention_is_traced_without_the_library(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 0)
    assume_cudnn()
    assert fused_attention_stablehlo.check_cudnn_version() == VERSION
    x = jax.ShapeDtypeStruct((2, 66, 12, 64), jnp.bfloat16)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    loss = jax.grad(lambda x, lengths: cudnn_attention(x, x, x, lengths).astype(jnp.float32).sum())
    assert jax.eval_shape(loss, x, lengths).shape == x.shape
