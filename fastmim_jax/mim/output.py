"""What every pre-training method gives."""

from typing import NamedTuple

import jax


class Output(NamedTuple):
    """float32; all but loss and seen share the grid of the method.

    loss: (). prediction, target: (B, h, w, P). mask: (B, h, w), 1 = hidden, 0 = visible.
    seen: (B, H, W, C), the pixels that the encoder was given.
    counted: (B, h, w), what a token counts in the loss; 0 for those that do not.
    thrown: (B, h, w), 1 = hidden, but not decoded (partial reconstruction).
    """

    loss: jax.Array
    prediction: jax.Array
    target: jax.Array
    mask: jax.Array
    encoder_input: jax.Array
    loss_weight: jax.Array
    thrown: jax.Array
