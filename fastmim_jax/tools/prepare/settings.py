"""Settings of a preparation: checked, and compared with those of an earlier one."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fastmim_jax.data.decode import DecodeError, decode_values
from fastmim_jax.data.records.raw import NATURAL_RANGES
from fastmim_jax.data.records.record import LAYOUTS
from fastmim_jax.data.sources import Source, open_source, split_names
from fastmim_jax.data.sources.joined import SEPARATOR, split_path
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
      value_range: (lowest, highest) declared value.
      records: {split: records of the original data set}.
    """

    source: str
    layout: str
    short_side: int
    quality: int | None
    channels: int
    dtype: str
    value_range: tuple[float, float]
    records: dict[str, int]


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
) -> Settings:
    """Check the flags of the command and complete them from the data.

    Args:
      path: of the original data set.
      sources: its splits.
      value_range: the words of --value_range, () for none.

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
    dtype = _find_dtype(sources, channels) if layout == "raw" else "uint8"
    return Settings(
        source=SEPARATOR.join(map(_absolute, split_path(path))),
        layout=layout,
        short_side=short_side,
        quality=(QUALITY if quality is None else quality) if layout == "jpeg" else None,
        channels=channels,
        dtype=dtype,
        value_range=_range(value_range, dtype),
        records={split: len(source) for split, source in sources.items()},
    )


def _absolute(path: str) -> str:
    """Return the absolute path of a file or folder; other names, such as "sample", stay."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _find_dtype(sources: Mapping[str, Source], channels: int) -> str:
    """Return the dtype of the first image that can be read."""
    reason = "no records"
    for source in sources.values():
        for index in range(min(len(source), _PROBED)):
            try:
                return decode_values(source[index], channels).dtype.name
            except (DecodeError, OSError) as error:
                reason = getattr(error, "reason", str(error))
    raise UserError(
        f"None of the first images can be read with --channels={channels} ({reason}): type --channels=N "
        "with the number of channels of the images."
    )


def _range(words: Sequence[str], dtype: str) -> tuple[float, float]:
    if not words and dtype == "float32":
        raise UserError(
            "The images are floating-point arrays, whose range has to be declared: type "
            "--value_range=LOWEST,HIGHEST with the values that stand for black and white, such as "
            "--value_range=0,1 (`--check --value_range=0,1` prints the values that occur)."
        )
    if not words:
        return NATURAL_RANGES[dtype]
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
        if key == "records" and before is not None and list(before) == list(value):
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
}


def _typed(value: Any) -> str:
    """Return a value as a flag has it; of a mapping, the keys."""
    if isinstance(value, list | tuple | dict):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)
