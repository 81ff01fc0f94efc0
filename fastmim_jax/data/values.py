"""From values of any dtype to pixels, by one range for all images of a data set."""

import dataclasses

import numpy as np

from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.records.raw import NATURAL_RANGES

WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}  # pixel of the highest value, by dtype of pixels
_ROWS = 1_000_000  # values that are converted at a time, to bound the memory
_EXACT = 2**24  # integers up to which float32 is exact
_DECLARE = "declare --config.data.value_range='(LOWEST, HIGHEST)'"


@dataclasses.dataclass
class ValueCounts:
    """Numbers of values of decoded images.

    Attributes:
      values: all. below, above: outside of the range. missing: nodata, NaN or infinite.
      lowest, highest: values outside of the range, infinite where there are none.
    """

    values: int = 0
    below: int = 0
    above: int = 0
    missing: int = 0
    lowest: float = float("inf")
    highest: float = -float("inf")


def to_pixels(
    values: np.ndarray, rules: DecodeRules, counts: ValueCounts | None = None, bits: int = 16
) -> np.ndarray:
    """Scale values to pixels of `rules.pixel_dtype`: the range becomes 0 to WHITE.

    Values outside of the range are clipped; missing ones (nodata, NaN, infinite) become 0, its low end.

    Args:
      values: of any shape and an integer or floating-point dtype.
      rules: range, nodata and dtype of the pixels. Without a dtype, 8 bits are not scaled, and without a
        range it is that of the dtype for unsigned integers of 16 bits and [0, 1] for floating point.
      counts: where clipped and missing values are added.
      bits: of unsigned integers in the file.

    Raises:
      DecodeError: a dtype without a range, or another number of bits than the data set has.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.uint8:
        return _from_8_bits(values, rules, counts)
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"array of {values.dtype}, expected integers or floating point")
    if rules.has_8_bits:
        raise DecodeError(
            f"{values.dtype} values in a data set of 8-bit images: convert them to 8 bits, or, for a data "
            f"set of such values alone, {_DECLARE}"
        )
    value_range = rules.value_range or _natural_range(values, bits)
    return scale(values, value_range, rules, counts)


def scale(
    values: np.ndarray,
    value_range: tuple[float, float],
    rules: DecodeRules,
    counts: ValueCounts | None = None,
) -> np.ndarray:
    """Scale values of any dtype by a range; see `to_pixels`."""
    pixels = np.empty(values.shape, rules.pixel_dtype)
    step = max(_ROWS * len(values) // max(values.size, 1), 1)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        pixels[start : start + step] = _scale_part(part, value_range, rules, counts)
    return pixels


def to_storable(values: np.ndarray, rules: DecodeRules) -> np.ndarray:
    """Return uint8 and uint16 as they are, other dtypes as float32; missing values as the range's low end.

    Raises:
      DecodeError: values that are not finite without a range, or integers that float32 does not hold.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind not in "iuf":
        raise DecodeError(f"array of {values.dtype}, expected integers or floating point")
    missing = find_missing(values, rules.nodata)
    if missing is not None:
        if not rules.value_range:
            raise DecodeError(f"has values that are not finite or nodata: {_DECLARE}")
        low = rules.value_range[0]
        values = np.where(missing, np.asarray(low).astype(values.dtype), values)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind != "f" and values.size and np.abs(values.astype(np.float64)).max() > _EXACT:
        raise DecodeError(f"{values.dtype} values of more than 24 bits")
    return values.astype(np.float32)


def find_missing(values: np.ndarray, nodata: tuple[float, ...]) -> np.ndarray | None:
    """Return where values are nodata, NaN or infinite, as bool of the same shape; None if nowhere."""
    masks = [~np.isfinite(values)] if values.dtype.kind == "f" else []
    for value in nodata:
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                masks.append(values == values.dtype.type(value))
        elif float(value).is_integer() and np.can_cast(np.min_scalar_type(int(value)), values.dtype):
            masks.append(values == int(value))
    missing = np.logical_or.reduce(masks) if masks else np.zeros((), bool)
    return missing if missing.any() else None


def _scale_part(part, value_range, rules, counts):
    low, high = value_range
    dtype, missing = rules.pixel_dtype, find_missing(part, rules.nodata)
    if counts is not None:
        counts.values += part.size
        counts.missing += 0 if missing is None else int(missing.sum())
    if part.dtype == np.uint16 and value_range == NATURAL_RANGES["uint16"] and dtype != np.float32:
        pixels = (part >> 8).astype(np.uint8) if dtype == np.uint8 else part
        return pixels if missing is None else np.where(missing, dtype.type(0), pixels)
    wide = np.promote_types(part.dtype, np.float32)  # float64 for more than 16 bits
    offset = part.astype(wide) - low
    if missing is not None:
        offset[missing] = 0
    if counts is not None:
        _count_clipped(part, missing, offset, high - low, counts)
    white = WHITE[dtype.name]
    offset *= white / (high - low)
    if dtype.kind == "u":
        np.rint(offset, out=offset)
    return offset.clip(0, white, out=offset).astype(dtype)


def _count_clipped(part, missing, offset, span, counts):
    """Add the values outside of the range; offset: of the values from its low end, 0 where missing."""
    below, above = (int(np.count_nonzero(outside)) for outside in (offset < 0, offset > span))
    counts.below += below
    counts.above += above
    if below or above:
        valid = part if missing is None else part[~missing]
        counts.lowest = min(counts.lowest, float(valid.min())) if below else counts.lowest
        counts.highest = max(counts.highest, float(valid.max())) if above else counts.highest


def _from_8_bits(values, rules, counts):
    """Return pixels of uint8 values, which have the range 0 to 255."""
    if rules.dtype and rules.value_range and rules.value_range != NATURAL_RANGES["uint16"]:
        low, high = rules.value_range
        raise DecodeError(
            f"8-bit image in a data set of values from {low:g} to {high:g}: convert it to such values, or "
            "remove it"
        )
    missing = find_missing(values, rules.nodata) if rules.nodata else None
    if missing is not None:
        values = np.where(missing, np.uint8(0), values)
        if counts is not None:
            counts.missing += int(missing.sum())
    if counts is not None:
        counts.values += values.size
    if rules.pixel_dtype == np.uint8:
        return values
    if rules.pixel_dtype == np.uint16:
        return values * np.uint16(257)
    return values / np.float32(255)


def _natural_range(values, bits):
    """Return the range of values for which none is declared; raise DecodeError where there is none."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DecodeError(f"nan or infinite values: {_DECLARE}")
        low, high = (float(function(initial=0)) for function in (values.min, values.max))
        if low < 0 or high > 1:
            raise DecodeError(f"float values from {low:.4g} to {high:.4g}, expected [0, 1]: {_DECLARE}")
        return 0.0, 1.0
    if values.dtype != np.uint16:
        raise DecodeError(f"{values.dtype} values, whose range is not known: {_DECLARE}")
    return 0.0, 2.0**bits - 1
