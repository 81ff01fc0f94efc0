"""The values of a data set, measured on evenly spaced records."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.decode import read_record, read_values
from fastmim_jax.data.limits import DecodeError, DecodeRules
from fastmim_jax.data.pillow_image import has_deep_colors, is_png
from fastmim_jax.data.sources import Source
from fastmim_jax.data.values import find_missing

SCANNED = 1000  # records at most
DEEP_COLORS = "16-bit colour PNG or PPM"  # a kind of its own: Pillow keeps 8 bits
GRAY_PNG = " PNG"  # end of the kinds of gray PNG files, whose white is 65535 by their standard
PERCENTILES = (0.1, 99.9)
_SAMPLED = 4_000_000  # values of all records and channels that the percentiles are of
_SECONDS_BETWEEN_REPORTS = 5.0


@dataclasses.dataclass(frozen=True)
class ValueScan:
    """Values of some records of a data set; missing ones (nodata, NaN, infinite) are left out.

    Attributes:
      records: of the data set. scanned: of them. unreadable: of the scanned ones.
      kinds: {dtype as stored, with GRAY_PNG of such files, or DEEP_COLORS: records}.
      examples: {the same: name of a record}.
      lowest, highest: per channel, of images of more than 8 bits; () without any.
      low_percentile, high_percentile: PERCENTILES per channel, of evenly spaced pixels.
      values: number of values. nodata, not_finite: numbers of missing ones among them.
      seconds: that the scan took.
    """

    records: int
    scanned: int
    unreadable: int
    kinds: dict[str, int]
    examples: dict[str, str]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    low_percentile: tuple[float, ...]
    high_percentile: tuple[float, ...]
    values: int
    nodata: int
    not_finite: int
    seconds: float

    @property
    def value_range(self) -> tuple[float, float]:
        """One range for all channels: all values, or the percentiles where outliers would double it."""
        full = min(self.lowest), max(self.highest)
        robust = min(self.low_percentile), max(self.high_percentile)
        low, high = full if full[1] - full[0] <= 2 * (robust[1] - robust[0]) else robust
        return (low, high) if low < high else (low, low + 1)

    @property
    def has_fractions(self) -> bool:
        """Whether any of the images are floating-point ones."""
        return any(kind.startswith("float") for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for a JSON file."""
        return dataclasses.asdict(self)


def scan_values(
    source: Source,
    channels: int,
    rules: DecodeRules,
    *,
    most: int = SCANNED,
    threads: int = 4,
    report: Callable[[str], None] = lambda text: None,
) -> ValueScan:
    """Measure the values of at most `most` evenly spaced records.

    Args:
      source: the data set.
      channels: C, see `decode`.
      rules: limits of size, and nodata.
      threads: that read.
      report: prints a line of progress every few seconds.
    """
    start = last = time.monotonic()
    indices = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)).tolist()
    rows = max(_SAMPLED // channels // len(indices), 1)
    found: list[_Values | None] = []
    with ThreadPoolExecutor(threads) as pool:
        for values in pool.map(lambda index: _measure(source, index, channels, rules, rows), indices):
            found.append(values)
            if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
                last = time.monotonic()
                report(f"measuring values: {len(found):,} of {len(indices):,} records")
    read = [(index, values) for index, values in zip(indices, found, strict=True) if values is not None]
    wide = [values for _, values in read if values.sample is not None]
    low, high = _percentiles(wide)
    return ValueScan(
        records=len(source),
        scanned=len(indices),
        unreadable=len(indices) - len(read),
        kinds=dict(Counter(values.kind for _, values in read).most_common()),
        examples={values.kind: source.name(index) for index, values in reversed(read)},
        lowest=_extremes(np.nanmin, (values.lowest for values in wide)),
        highest=_extremes(np.nanmax, (values.highest for values in wide)),
        low_percentile=low,
        high_percentile=high,
        values=sum(values.values for values in wide),
        nodata=sum(values.nodata for values in wide),
        not_finite=sum(values.not_finite for values in wide),
        seconds=round(time.monotonic() - start, 2),
    )


class _Values(NamedTuple):
    """The values of a record; of 8-bit ones only the kind."""

    kind: str
    sample: np.ndarray | None = None  # (n, C) float64, nan where missing
    lowest: np.ndarray | None = None  # (C,), nan where all are missing
    highest: np.ndarray | None = None
    values: int = 0
    nodata: int = 0
    not_finite: int = 0


def _measure(source, index, channels, rules, rows):
    """Return the _Values of a record, or None if it cannot be read or has other channels."""
    try:
        data = read_record(source, index)
        found = read_values(data, channels, rules)
        if found is None or found[0].dtype == np.uint8:
            return _Values(DEEP_COLORS if has_deep_colors(data) else "uint8")
        values, nodata = found
        flat = _flatten(values, channels)
    except DecodeError:
        return None
    missing = find_missing(flat, nodata)
    not_finite = int((~np.isfinite(flat)).sum()) if flat.dtype.kind == "f" else 0
    sample = flat[np.linspace(0, len(flat) - 1, min(rows, len(flat))).astype(int)].astype(np.float64)
    if missing is None:
        lowest, highest = (function(flat, axis=0).astype(np.float64) for function in (np.min, np.max))
        total = 0
    else:
        valid = np.where(missing, np.nan, flat.astype(np.float64))
        empty = missing.all(axis=0)
        lowest, highest = (
            np.where(empty, np.nan, function(np.where(missing, end, valid), axis=0))
            for function, end in ((np.min, np.inf), (np.max, -np.inf))
        )
        sample = valid[np.linspace(0, len(flat) - 1, min(rows, len(flat))).astype(int)]
        total = int(missing.sum())
    kind = values.dtype.newbyteorder("=").name + (GRAY_PNG if is_png(data) else "")
    return _Values(kind, sample, lowest, highest, flat.size, total - not_finite, not_finite)


def _flatten(values: np.ndarray, channels: int) -> np.ndarray:
    """Return (pixels, channels) of (H, W) or (H, W, C); raise DecodeError where C does not fit."""
    own = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in "iuf":
        raise DecodeError(f"array of {values.dtype}, shape {values.shape}")
    if own == channels:
        return values.reshape(-1, channels)
    if (own, channels) == (1, 3):
        return np.repeat(values.reshape(-1, 1), 3, axis=1)
    if (own, channels) == (3, 1):
        return values.reshape(-1, 1)
    raise DecodeError(f"has {own} channels, expected {channels}")


def _percentiles(wide: list[_Values]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not wide:
        return (), ()
    samples = np.concatenate([values.sample for values in wide if values.sample is not None])
    columns = [column[~np.isnan(column)] for column in samples.T]
    low, high = ([np.percentile(x, p) if len(x) else np.nan for x in columns] for p in PERCENTILES)
    return _without_nan(low), _without_nan(high)


def _extremes(function: Callable, rows: Iterable[Any]) -> tuple[float, ...]:
    table = np.array([row for row in rows])
    if not table.size:
        return ()
    empty = np.isnan(table).all(axis=0)
    return _without_nan(np.where(empty, np.nan, function(np.where(empty, 0, table), axis=0)))


def _without_nan(numbers: Iterable[float]) -> tuple[float, ...]:
    """Return the numbers; of channels without a value those of the others, or 0."""
    known = [float(x) for x in numbers]
    spare = next((x for x in known if not np.isnan(x)), 0.0)
    return tuple(spare if np.isnan(x) else x for x in known)
