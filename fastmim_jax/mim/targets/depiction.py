"""Forms in which a reconstruction target can be drawn; `fastmim_jax.tools.reconstruct` draws them."""

from typing import NamedTuple

from jaxtyping import Float

from fastmim_jax.models.typing import Array


class Images(NamedTuple):
    """Pixels on the scale of the normalised images.

    predicted, true: (B, H, W, C).
    note: what `predicted` takes from the truth, in a few words, or "".
    """

    predicted: Float[Array, "B H W C"]
    true: Float[Array, "B H W C"]
    note: str = ""


class Maps(NamedTuple):
    """Maps on a scale of their own, drawn between the least and the largest true value.

    predicted, true: (B, rows, columns, K), rows and columns multiples of the token grid; gray for K < 3,
      else three channels.
    """

    predicted: Float[Array, "B rows columns K"]
    true: Float[Array, "B rows columns K"]


class Histograms(NamedTuple):
    """Histograms of oriented gradients, drawn as stars of strokes.

    predicted, true: (B, rows, columns, C, bins), one histogram per cell and channel.
    normalized: True if every true histogram has an L2 norm of 1 (or 0).
    """

    predicted: Float[Array, "B rows columns C bins"]
    true: Float[Array, "B rows columns C bins"]
    normalized: bool


Depiction = Images | Maps | Histograms
