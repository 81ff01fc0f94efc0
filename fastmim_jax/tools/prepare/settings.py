"""Settings of a preparation: checked, and compared with those of an earlier one."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastmim_jax.data.decode import DecodeError, decode_values
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.records.raw import NATURAL_RANGES
from fastmim_jax.data.records.record import LAYOUTS
from fastmim_jax.data.sources import Source, open_source, split_names
from fastmim_jax.data.sources.joined import SEPARATOR, split_path
from fastmim_jax.data.value_scan import DEEP_COLORS, scan_values
from fastmim_jax.errors import UserError

QUALITY = 90  # of JPEG
_PROBED = 64  # records of a split that are tried for the dtype of a raw data set


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that determines the files of a prepared data set, besides the images.

    Attributes:
      source: absolute path of the original data set, or its name such as "sample".
      layout: "jpeg", "yuv420" or "raw".
      short_side: largest short side, pixels; 0 for no limit.
      quality: of JPEG, 1 to 100; None for other layouts.
      channels: C. dtype: "uint8", "uint16" or "float32".
      value_range: (lowest, highest) value, declared or measured.
      records: {split: records of the original data set}.
      nodata: value of no measurement, or None.
    """

    source: str
    layout: str
    short_side: int
    quality: int | None
    channels: int
    dtype: str
    value_range: tuple[float, float]
    records: dict[str, int]
    nodata: float | None = None

    def public(self, with_paths: bool) -> dict[str, Any]:
        """Return the settings for manifest.json.

        with_paths: whether the path of the original data set may be in them; else only its hash, which
        tells other data apart.
        """
        content = {**dataclasses.asdict(self), "source_hash": _hash(self.source)}
        return content if with_paths else {**content, "source": ""}

    @property
    def rules(self) -> DecodeRules:
        """Rules of decoding: 8-bit layouts take 8-bit images only."""
        nodata = () if self.nodata is None else (self.nodata,)
        if self.layout != "raw":
            return DecodeRules(nodata=nodata, dtype="uint8")
        return DecodeRules(value_range=() if self.dtype == "uint8" else self.value_range, nodata=nodata)


def open_splits(path: str, splits: Sequence[str]) -> dict[str, Source]:
    """Open the splits of a data set: {split: source}; all of them where none is named.

    Raises:
      UserError: no data set there, or no such split.
    """
    offered = split_names(path) or ("train",)
    unknown = [name for name in splits if name not in offered]
    if unknown:
        raise UserError(
            f"--splits={','.join(splits)} names {', '.join(unknown)}, but {path} has the splits "
            f"{', '.join(offered)}: type --splits with some of these, or leave it out for all."
        )
    return {name: open_source(path, name) for name in dict.fromkeys(splits or offered)}


def make_settings(
    path: str,
    sources: Mapping[str, Source],
    *,
    layout: str,
    short_side: int,
    quality: int | None,
    channels: int,
    value_range: Sequence[str],
    nodata: float | None = None,
    log: Callable[[str], None] = print,
) -> Settings:
    """Check the flags of the command and complete them from the data.

    Args:
      path: of the original data set.
      sources: its splits.
      value_range: the words of --value_range, () for none: then it is measured on the first split.
      nodata: see `Settings`.
      log: prints a line.

    Raises:
      UserError: a value that the layout or the data does not allow.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--format is {layout}; choose from: {', '.join(LAYOUTS)}")
    if quality is not None and (layout != "jpeg" or not 1 <= quality <= 100):
        raise UserError(f"--quality={quality} with --format={layout}: it is for jpeg, from 1 to 100")
    if value_range and layout != "raw":
        raise UserError(
            f"--value_range is for --format=raw, not {layout}: leave it out, or type --format=raw"
        )
    if channels not in {"jpeg": (1, 3), "yuv420": (3,), "raw": (channels,)}[layout]:
        possible = "1 or 3" if layout == "jpeg" else "3"
        raise UserError(
            f"--channels={channels}, but {layout} stores {possible}: type --format=raw for other numbers"
        )
    rules = DecodeRules(nodata=() if nodata is None else (nodata,))
    if layout == "raw":
        dtype = _find_dtype(sources, channels, rules)
    else:
        dtype = "uint8"
        _check_8_bits(next(iter(sources.values())), channels, layout)
    ends = _declared_range(value_range) if value_range else NATURAL_RANGES["uint8"]
    if dtype != "uint8" and not value_range:
        ends = _measured_range(next(iter(sources.values())), channels, rules, log)
    return Settings(
        source=SEPARATOR.join(map(_absolute, split_path(path))),
        layout=layout,
        short_side=short_side,
        quality=(QUALITY if quality is None else quality) if layout == "jpeg" else None,
        channels=channels,
        dtype=dtype,
        value_range=ends,
        records={split: len(source) for split, source in sources.items()},
        nodata=nodata,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _absolute(path: str) -> str:
    """Return the absolute path of a file or folder; other names, such as "sample", stay."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _find_dtype(sources: Mapping[str, Source], channels: int, rules: DecodeRules) -> str:
    """Return the dtype of the first image that can be read."""
    rules = dataclasses.replace(rules, value_range=(0.0, 1.0))  # any: only the dtype is read
    reason = "no records"
    for source in sources.values():
        for index in range(min(len(source), _PROBED)):
            try:
                return decode_values(source[index], channels, rules).dtype.name
            except (DecodeError, OSError) as error:
                reason = getattr(error, "reason", str(error))
    raise UserError(
        f"None of the first images can be read with --channels={channels} ({reason}): type --channels=N "
        "with the number of channels of the images."
    )


def _check_8_bits(source: Source, channels: int, layout: str) -> None:
    """Raise UserError if most images have more bits than a layout stores; others are refused by name."""
    scan = scan_values(source, channels, DecodeRules(), most=_PROBED)
    wide = {kind: number for kind, number in scan.kinds.items() if kind not in ("uint8", DEEP_COLORS)}
    if sum(wide.values()) > sum(scan.kinds.values()) / 2:
        kind = max(wide, key=wide.__getitem__)
        raise UserError(
            f"The images have {kind} values, such as {scan.examples[kind]}, but {layout} stores 8 bits: "
            "type --format=raw, which keeps them (--value_range=LOWEST,HIGHEST declares black and white)."
        )


def _measured_range(
    source: Source, channels: int, rules: DecodeRules, log: Callable[[str], None]
) -> tuple[float, float]:
    scan = scan_values(source, channels, rules, report=log)
    if not scan.lowest:
        return NATURAL_RANGES["uint16"]  # none of the scanned ones can be read, which is printed by name
    low, high = scan.value_range
    log(
        f"range of values {low:.9g} to {high:.9g}, measured on {scan.scanned:,} of {scan.records:,} "
        f"records in {scan.seconds:.1f} s; {scan.nodata:,} nodata and {scan.not_finite:,} values that are "
        f"not finite are left out (--value_range={low:.9g},{high:.9g} declares it)"
    )
    return low, high


def _declared_range(words: Sequence[str]) -> tuple[float, float]:
    try:
        low, high = map(float, words)
        if not -float("inf") < low < high < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--value_range={','.join(words)}: expected the lowest and a higher value: type "
            "--value_range=0,1 or other numbers"
        ) from None
    return low, high


def describe_differences(settings: Settings, earlier: Mapping[str, Any]) -> str:
    """Return in words where an earlier preparation differs: "--format=jpeg (now yuv420)"; "" if nowhere."""
    now = dataclasses.asdict(settings)
    now["value_range"] = list(now["value_range"])  # as JSON has it
    words = []
    for key, value in now.items():
        before = earlier.get(key)
        if before == value or (key == "quality" and None in (before, value)):  # then the layouts differ
            continue
        if key == "source" and "source_hash" in earlier:
            if earlier["source_hash"] != _hash(value):
                words.append(f"source {before or 'of other images'} (now {value})")
            continue
        if key == "records" and isinstance(before, dict) and list(before) == list(value):
            counts = [
                f"{before[split]:,} records in {split} (now {count:,})"
                for split, count in value.items()
                if before[split] != count
            ]
            words += counts
        else:
            words.append(f"{_FLAGS.get(key, key)}{_typed(before)} (now {_typed(value)})")
    return ", ".join(words)


_FLAGS = {
    "source": "source ",
    "layout": "--format=",
    "short_side": "--short_side=",
    "quality": "--quality=",
    "channels": "--channels=",
    "dtype": "dtype ",
    "value_range": "--value_range=",
    "records": "--splits=",
    "nodata": "--nodata=",
}


def _typed(value: Any) -> str:
    """Return a value as a flag has it; of a mapping, the keys."""
    if isinstance(value, list | tuple | dict):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)
