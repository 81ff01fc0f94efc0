"""Reconstruction targets: what a method predicts of every token, computed from the unmasked image.

A new target is one file in this folder and one line in CLASSES.
"""

from importlib import import_module
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Shaped

from fastmim_jax.mim.targets.depiction import Depiction
from fastmim_jax.models.typing import Array


@runtime_checkable
class Target(Protocol):
    """A reconstruction target, built as `TARGETS[name](normalize=...)` and hashable.

    Its values form an array (B, h, w, P), P of them per token of `size` x `size` pixels.

    Attributes:
      label: its name in pictures.
      unit: side in pixels of the smallest square with values of its own; divides the size of every token.
      timed: True if `fastmim bench` times it apart from the rest of the step.
    """

    @property
    def label(self) -> str: ...

    @property
    def timed(self) -> bool: ...

    @property
    def unit(self) -> int: ...

    def at(self, size: int) -> "Target":
        """Return the target whose unit, or token of one unit, has `size` pixels (see `MultiScale`)."""

    def values(self, size: int, channels: int) -> int:
        """Return P, the number of values per token of `size` pixels."""

    def __call__(self, images: Shaped[Array, "B H W C"], size: int) -> Float[Array, "B h w P"]:
        """Return the target (B, H/size, W/size, P), float32, of normalised images (B, H, W, C)."""

    def split(self, tokens: Float[Array, "B h w P"], parts: int, size: int) -> Float[Array, "B h2 w2 P2"]:
        """Regroup (B, h, w, P) from tokens of `size` pixels to (B, h*parts, w*parts, P/parts**2).

        Methods need it where masked blocks are smaller than the tokens of the backbone.
        """

    def depict(
        self,
        prediction: Float[Array, "B h w P"],
        target: Float[Array, "B h w P"],
        images: Float[Array, "B H W C"],
        size: int,
    ) -> Depiction:
        """Return a prediction and its target in a form that can be drawn.

        Args:
          prediction, target: (B, h, w, P) for tokens of `size` pixels.
          images: (B, H, W, C), the normalised images that the target was computed from.
        """


# Name in configs -> module of this folder, and its class.
CLASSES = {
    "hog": ("hog", "HOG"),
    "pixel": ("pixels", "Pixels"),
}
TARGETS: dict[str, type[Target]] = {
    name: getattr(import_module(f"fastmim_jax.mim.targets.{module}"), kind)
    for name, (module, kind) in CLASSES.items()
}
