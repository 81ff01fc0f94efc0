"""Layers of a backbone, by name, for those who look at each of them."""

import jax
import jax.numpy as jnp
import numpy as np


def layer_names(encoder):
    """("block 1", ...) of a ViT, ("stage 1", ...) of a pyramid: as many as `outputs` gives."""
    depths = getattr(encoder, "depths", None)
    kind, count = ("block", encoder.depth) if depths is None else ("stage", len(depths))
    return tuple(f"{kind} {number}" for number in range(1, count + 1))


def with_identity_norm(variables, encoder, image_shape):
    """The variables, with a final norm without learned factors where a classifier has none in its backbone.

    image_shape: (H, W, C).
    """
    if not variables or "norm" in variables["params"]:
        return variables
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    norm = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"].get("norm", {})
    begun = {name: np.full(x.shape, name == "scale", x.dtype) for name, x in norm.items()}
    return {**variables, "params": {**variables["params"], **({"norm": begun} if begun else {})}}
