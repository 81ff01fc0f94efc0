"""Arrays whose values have a declared range."""

import dataclasses

import numpy as np

# Ranges that `decode` assumes for arrays without a declared one.
NATURAL_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class RawImage:
    """An array whose range is not the natural one of its dtype.

    Attributes:
      values: (H, W, C); of prepared images uint8, uint16 or float32.
      value_range: (lowest, highest): black and white.
    """

    values: np.ndarray
    value_range: tuple[float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.values.shape
