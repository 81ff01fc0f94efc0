"""The range of values of a data set, and the dtype of pixels for the network: decided once."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.records.raw import NATURAL_RANGES
from fastmim_jax.data.sources import Source
from fastmim_jax.data.value_scan import DEEP_COLORS, GRAY_PNG, PERCENTILES, ValueScan, scan_values
from fastmim_jax.errors import UserError

LOOKED_AT = 64  # records, for the number of bits
_LEVELS = 2**16  # of uint16


class DecidedValues(NamedTuple):
    """The values of a data set.

    rules: with `value_range` and `dtype`. sentences: on what was decided, and from what.
    scan: the measurement, or None for prepared images.
    """

    rules: DecodeRules
    sentences: list[str]
    scan: ValueScan | None = None


def decide_values(
    source: Source,
    channels: int,
    rules: DecodeRules,
    *,
    threads: int = 4,
    log: Callable[[str], None] = lambda text: None,
) -> DecidedValues:
    """Return the range and the dtype of the pixels of a data set.

    A few records tell the number of bits. A range is measured where images have more than 8 and none is
    declared. Prepared images have it in their manifest.

    Args:
      source: the data set.
      channels: C, see `decode`.
      rules: of decoding; its range and dtype count where they are given.
      threads: that read records.
      log: prints a line.

    Raises:
      UserError: 8-bit images beside others, or 16-bit colour PNG or PPM files (read as 8 bits).
    """
    manifest = getattr(source, "manifest", None)
    if manifest is not None:
        return _of_prepared(manifest, rules)
    scan = scan_values(source, channels, rules, most=LOOKED_AT, threads=threads)
    if not scan.kinds:  # nothing can be read, which training says by name
        return DecidedValues(rules, [])
    _check_kinds(scan, rules)
    wide = [kind for kind in scan.kinds if not _has_8_bits(kind)]
    eight = sum(scan.kinds.values()) - sum(map(scan.kinds.__getitem__, wide))
    mean_the_same = bool(wide) and rules.value_range == NATURAL_RANGES["uint16"]
    if eight > sum(scan.kinds.values()) / 2 and not mean_the_same:
        return DecidedValues(*_eight_bits(scan, rules), scan)
    rare = [] if mean_the_same else _rare_kinds(scan)
    declared = rules.value_range
    if not declared:
        log(f"measuring the range of values, as images are {' and '.join(wide)}")
        scan = scan_values(source, channels, rules, threads=threads, report=log)
    value_range = declared or scan.value_range
    dtype = rules.dtype or smallest_dtype(scan.has_fractions, value_range)
    decided = dataclasses.replace(rules, value_range=value_range, dtype=dtype)
    sentences = [*_describe(scan, value_range, dtype, bool(declared), wide), *_refused(scan, rare)]
    return DecidedValues(decided, sentences, scan)


def smallest_dtype(has_fractions: bool, value_range: tuple[float, float]) -> str:
    """Return the smallest dtype of pixels that loses no level of images of more than 8 bits."""
    low, high = value_range
    return "float32" if has_fractions or high - low >= _LEVELS else "uint16"


def compare_ranges(scan: ValueScan, value_range: tuple[float, float]) -> str | None:
    """Return how the values of a data set differ from a range that is not its own, or None.

    They differ where percentiles lie outside of the range, or fill less than half of it.
    """
    low, high = value_range
    own = min(scan.low_percentile), max(scan.high_percentile)
    if low <= own[0] and own[1] <= high and own[1] - own[0] >= (high - low) / 2:
        return None
    return (
        f"{own[0]:g} to {own[1]:g} ({PERCENTILES[0]:g} % to {PERCENTILES[1]:g} % of its values), while "
        f"{low:g} to {high:g} become black and white"
    )


def _of_prepared(manifest: Any, rules: DecodeRules) -> DecidedValues:
    if manifest.dtype == "uint8":
        decided = dataclasses.replace(rules, value_range=(), dtype=rules.dtype or "uint8")
        return DecidedValues(decided, [f"8 bits, as prepared; the network gets {decided.dtype}"])
    value_range = rules.value_range or manifest.value_range
    dtype = rules.dtype or smallest_dtype(manifest.dtype == "float32", value_range)
    low, high = value_range
    origin = "declared" if rules.value_range else "of its manifest.json"
    sentence = (
        f"{manifest.dtype}, as prepared; range {low:g} to {high:g}, {origin}; the network gets {dtype}"
    )
    return DecidedValues(dataclasses.replace(rules, value_range=value_range, dtype=dtype), [sentence])


def _eight_bits(scan: ValueScan, rules: DecodeRules) -> tuple[DecodeRules, list[str]]:
    decided = dataclasses.replace(rules, value_range=(), dtype=rules.dtype or "uint8")
    looked_at = f"{scan.scanned - scan.unreadable:,} of {scan.records:,} records that were looked at"
    sentences = [f"8 bits, as of {looked_at}; the network gets {decided.dtype}"]
    sentences += _refused(scan, _rare_kinds(scan))
    if rules.value_range:
        sentences.append("config.data.value_range is for images of more than 8 bits and is not used")
    return decided, sentences


def _check_kinds(scan: ValueScan, rules: DecodeRules) -> None:
    """Raise UserError for a data set of files that cannot be read in full, or of mixed depths."""
    deep, total = scan.kinds.get(DEEP_COLORS, 0), sum(scan.kinds.values())
    if deep > total / 2 and rules.dtype != "uint8":
        raise UserError(
            f"{deep:,} of {scan.scanned:,} records that were looked at are {DEEP_COLORS} files, such as "
            f"{scan.examples[DEEP_COLORS]}, of which only 8 bits can be read: write them as TIFF or "
            ".npy, or type --config.data.pixel_dtype=uint8 for 8 bits"
        )
    rare = _rare_kinds(scan)
    if rules.value_range == NATURAL_RANGES["uint16"] or sum(map(scan.kinds.__getitem__, rare)) < total / 4:
        return
    usual = next(kind for kind in scan.kinds if kind not in rare)
    raise UserError(
        f"images of other depths ({_named(scan, rare)}) beside {usual} ({scan.kinds[usual]:,} of "
        f"{scan.scanned:,} records that were looked at, such as {scan.examples[usual]}), whose values do "
        "not mean the same: convert them to one depth, or, if 65535 is as white as 255, type "
        "--config.data.value_range='(0, 65535)'"
    )


def _refused(scan: ValueScan, rare: list[str]) -> list[str]:
    if not rare:
        return []
    return [f"images of another depth are replaced and listed as undecodable: {_named(scan, rare)}"]


def _has_8_bits(kind: str) -> bool:
    return kind in ("uint8", DEEP_COLORS)


def _rare_kinds(scan: ValueScan) -> list[str]:
    """Return the kinds whose depth is not that of most records, and does not mean the same."""
    eight = sum(number for kind, number in scan.kinds.items() if _has_8_bits(kind))
    most_have_8 = eight > sum(scan.kinds.values()) / 2
    rare = [kind for kind in scan.kinds if _has_8_bits(kind) != most_have_8]
    return [kind for kind in rare if not (most_have_8 and kind.endswith(GRAY_PNG))]


def _named(scan: ValueScan, kinds: list[str]) -> str:
    return ", ".join(f"{scan.kinds[kind]:,} {kind} such as {scan.examples[kind]}" for kind in kinds)


def _describe(
    scan: ValueScan, value_range: tuple[float, float], dtype: str, declared: bool, wide: list[str]
) -> Iterator[str]:
    low, high = value_range
    origin = "declared"
    if not declared:
        origin = f"measured on {scan.scanned:,} of {scan.records:,} records in {scan.seconds:.1f} s"
    yield f"{' and '.join(wide)}; range {low:g} to {high:g}, {origin}; the network gets {dtype}"
    numbers = zip(scan.lowest, scan.highest, scan.low_percentile, scan.high_percentile, strict=True)
    channels = [f"{a:g} to {b:g} ({c:g} to {d:g})" for a, b, c, d in numbers]
    shown = "; ".join(channels[:4]) + (f"; and {len(channels) - 4} more" if len(channels) > 4 else "")
    yield f"of the channels ({PERCENTILES[0]:g} % to {PERCENTILES[1]:g} %): {shown}"
    if scan.nodata or scan.not_finite:
        yield (
            f"{scan.nodata:,} nodata and {scan.not_finite:,} values that are not finite among "
            f"{scan.values:,}: read as {low:g}"
        )
    if scan.unreadable:
        yield f"{scan.unreadable:,} of the {scan.scanned:,} scanned records cannot be read"
