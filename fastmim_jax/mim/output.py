"""The output of every pre-training method."""

from typing import NamedTuple

from jaxtyping import Float

from fastmim_jax.models.typing import Array


class Output(NamedTuple):
    """A pre-training pass; float32, on the method's own token grid (h, w).

    loss: the scalar to minimise.
    prediction, target: the values of every token; predictions are exactly 0 where nothing is predicted.
    mask: 1 = masked, 0 = visible.
    encoder_input: the pixels that the encoder is given.
    loss_weight: weight of each token in the loss; 0 leaves it out.
    thrown: 1 = masked but not decoded (partial reconstruction).
    """

    loss: Float[Array, ""]
    prediction: Float[Array, "B h w P"]
    target: Float[Array, "B h w P"]
    mask: Float[Array, "B h w"]
    encoder_input: Float[Array, "B H W C"]
    loss_weight: Float[Array, "B h w"]
    thrown: Float[Array, "B h w"]
