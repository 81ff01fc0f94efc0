"""From values of any dtype to 0 to 255, by one range for all images of a data set."""

import numpy as np

from fastmim_jax.data.limits import DecodeError
from fastmim_jax.data.records.raw import NATURAL_RANGES, RawImage

ValueRange = tuple[float, float] | tuple[()]
_ROWS = 1_000_000  # values that are converted at a time, to bound the memory
_EXACT = 2**24  # integers up to which float32 is exact


def to_uint8(values: np.ndarray, value_range: ValueRange, bits: int = 16) -> np.ndarray:
    """Scale values to 0 to 255.

    Args:
      values: of any shape and an integer or floating-point dtype.
      value_range: (lowest, highest), black and white; values outside are clipped. (): the range of the
        dtype, which unsigned integers of 16 bits have, and [0, 1] for floating point, clipping nothing.
      bits: of unsigned integers in the file.

    Returns:
      uint8 of the same shape; uint8 stays as it is.

    Raises:
      DecodeError: values that are not finite, a dtype without a range, or values outside of it.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"array of {values.dtype}, expected integers or floating point")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DecodeError("nan or infinite values, expected finite ones")
    if values.dtype == np.uint16 and (value_range or (0, 2**bits - 1)) == NATURAL_RANGES["uint16"]:
        return (values >> 8).astype(np.uint8)
    if not value_range:
        _check_natural(values)
        value_range = (0.0, 1.0) if values.dtype.kind == "f" else (0.0, 2.0**bits - 1)
    scaled = np.empty(values.shape, np.uint8)
    step = max(_ROWS * len(values) // max(values.size, 1), 1)
    for start in range(0, len(values), step):
        part = RawImage(values[start : start + step], value_range)
        scaled[start : start + step] = part.to_uint8()
    return scaled


def to_storable(values: np.ndarray) -> np.ndarray:
    """Return uint8 and uint16 as they are, other dtypes as float32.

    Raises:
      DecodeError: values that are not finite, or integers that float32 does not hold.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"array of {values.dtype}, expected integers or floating point")
    if values.dtype.kind != "f" and values.size and np.abs(values.astype(np.float64)).max() > _EXACT:
        raise DecodeError(f"{values.dtype} values of more than 24 bits")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DecodeError("has values that are not finite")
    return values


def _check_natural(values: np.ndarray) -> None:
    """Raise DecodeError where a range has to be declared."""
    declare = (
        "declare --config.data.value_range='(LOWEST, HIGHEST)'; `fastmim prepare SRC --check --format=raw "
        "--value_range=0,1` prints them"
    )
    if values.dtype.kind == "f":
        low, high = (float(function(initial=0)) for function in (values.min, values.max))
        if low < 0 or high > 1:
            raise DecodeError(f"float values from {low:.4g} to {high:.4g}, expected [0, 1]: {declare}")
    elif values.dtype != np.uint16:
        raise DecodeError(f"{values.dtype} values, whose range is not known: {declare}")
