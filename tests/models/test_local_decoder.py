"""LocalMIM's decoders: the cells of a token lie where layers on the whole grid put them."""

import jax
import numpy as np
import pytest

from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.dense.layers import Upsample2
from fastmim_jax.models.gelu import gelu
from fastmim_jax.models.layers import PatchEmbed, layer_norm, unpatchify
from fastmim_jax.models.local_decoder import LocalDecoder


@pytest.mark.slow
def test_cells_of_a_token_are_those_of_layers_on_the_grid():
    decoder = LocalDecoder(16 * 5, width=16, depth=0, cells=4)
    tokens = jax.random.normal(jax.random.key(0), (2, 3, 4, 16))
    encoded = EncoderOutput(tokens, tokens[:, 0, :0])
    found, variables = jax.jit(decoder.init_with_output)(jax.random.key(1), encoded)
    params = variables["params"]
    assert set(params) == {"norm", "pred"} and set(params["pred"]) == {"up_0", "norm_1", "up_1", "linear"}

    @jax.jit
    def expected(x):
        def apply(module, name, x):
            return module.apply({"params": params["pred"].get(name)}, x)

        norm = layer_norm(1e-6, x.dtype, "norm")
        x = norm.apply({"params": params["norm"]}, x)
        x = gelu(apply(norm, "norm_1", apply(Upsample2(8), "up_0", x)))
        return apply(PatchEmbed(1, 5), "linear", apply(Upsample2(4), "up_1", x))

    np.testing.assert_allclose(unpatchify(found, 4), expected(tokens), atol=1e-5)
