"""The values that a model takes as its pixels, for descriptions of models that leave this package."""

from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.data.values import WHITE


def describe_values(data: ConfigDict) -> str | None:
    """Return one sentence on the range of values of `config.data`; None for images of 8 bits."""
    if not data.value_range:
        return None
    low, high = data.value_range
    missing = "NaN" if data.nodata is None else f"NaN and {data.nodata:.9g} (nodata)"
    dtype = data.pixel_dtype or "uint8"
    return (
        f"{low:.9g} to {high:.9g} become pixels 0 to {WHITE[dtype]} of {dtype}, values outside are "
        f"clipped, {missing} become 0"
    )


def rescaling(data: Any) -> tuple[float, float]:
    """Return (factor, offset): value * factor - offset is a pixel in [0, 1]."""
    low, high = data.value_range or (0, 255)
    return 1 / (high - low), low / (high - low)
