"""Facts of shards and of splits: what was written, statistics of the pixels, and what was left out."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fastmim_jax.data.records.manifest import Shard, SplitFacts, Spread, Unreadable

Number = int | float


@dataclasses.dataclass
class ShardFacts:
    """The facts of one shard, as JSON keeps them.

    file, bytes, sha256: of the shard; "" and 0 where no record was written.
    chunks: position of each record, see `data.sources.riegeli`.
    labels, names, heights, widths: of each record.
    pixels: of all records. sums, squares, lowest, highest: per channel, of the values and their squares.
    copied: JPEG files stored as they are.
    unreadable: (name, reason) of the records that were left out.
    """

    file: str = ""
    bytes: int = 0
    sha256: str = ""
    chunks: list[int] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    heights: list[int] = dataclasses.field(default_factory=list)
    widths: list[int] = dataclasses.field(default_factory=list)
    pixels: int = 0
    sums: list[Number] = dataclasses.field(default_factory=list)
    squares: list[Number] = dataclasses.field(default_factory=list)
    lowest: list[Number] = dataclasses.field(default_factory=list)
    highest: list[Number] = dataclasses.field(default_factory=list)
    copied: int = 0
    unreadable: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def add(self, image: np.ndarray, label: int, name: str) -> None:
        """Add an image (H, W, C) of uint8, uint16 or float32."""
        self.labels.append(label)
        self.names.append(name)
        self.heights.append(image.shape[0])
        self.widths.append(image.shape[1])
        self._add_pixels(image.shape[0] * image.shape[1], _statistics(image))

    def merge_pixels(self, other: "ShardFacts") -> None:
        """Add the statistics of the pixels of another shard."""
        if other.pixels:
            self._add_pixels(other.pixels, [other.sums, other.squares, other.lowest, other.highest])

    def _add_pixels(self, pixels: int, statistics: Sequence[Sequence[Number]]) -> None:
        mine = self.sums, self.squares, self.lowest, self.highest
        if not self.pixels:
            self.sums, self.squares, self.lowest, self.highest = map(list, statistics)
        else:
            combine: tuple[Callable[[Iterable[Number]], Number], ...] = sum, sum, min, max
            self.sums, self.squares, self.lowest, self.highest = (
                [function(pair) for pair in zip(old, new, strict=True)]
                for function, old, new in zip(combine, mine, statistics, strict=True)
            )
        self.pixels += pixels


def _statistics(image: np.ndarray) -> list[list[Number]]:
    """Return [sums, sums of squares, smallest, largest] of the channels; exact for integers."""
    columns = [_plane_statistics(plane) for plane in np.moveaxis(image, -1, 0)]
    return [list(row) for row in zip(*columns, strict=True)]


def _plane_statistics(plane: np.ndarray) -> tuple[Number, Number, Number, Number]:
    if plane.dtype == np.uint8:  # Pillow's histogram is the fastest way to all four
        counts = np.array(Image.fromarray(np.ascontiguousarray(plane)).histogram(), np.int64)
        levels = np.arange(256)
        occurring = np.flatnonzero(counts)
        return (
            int(counts @ levels),
            int(counts @ levels**2),
            int(occurring[0]),
            int(occurring[-1]),
        )
    wide = plane.astype(np.int64 if plane.dtype == np.uint16 else np.float64)
    return wide.sum().item(), np.square(wide).sum().item(), plane.min().item(), plane.max().item()


def split_facts(
    shards: Sequence[ShardFacts], classes: Sequence[str], value_range: tuple[float, float]
) -> SplitFacts:
    """Return the facts of a split of at least one record.

    Args:
      shards: in order.
      classes: names of the classes.
      value_range: see `Settings`; the mean and standard deviation are relative to it.
    """
    pixels = ShardFacts()
    for shard in shards:
        pixels.merge_pixels(shard)
    counts = Counter(label for shard in shards for label in shard.labels)
    mean, std = _moments(pixels, value_range)
    return SplitFacts(
        records=counts.total(),
        classes=tuple(classes),
        records_per_class={name: counts[label] for label, name in enumerate(classes)},
        unlabelled=counts[-1],
        height=_spread([value for shard in shards for value in shard.heights]),
        width=_spread([value for shard in shards for value in shard.widths]),
        mean=mean,
        std=std,
        lowest=tuple(pixels.lowest),
        highest=tuple(pixels.highest),
        copied=sum(shard.copied for shard in shards),
        shards=tuple(
            Shard(shard.file, len(shard.labels), shard.bytes, shard.sha256)
            for shard in shards
            if shard.file
        ),
        unreadable=tuple(Unreadable(name, reason) for shard in shards for name, reason in shard.unreadable),
    )


def content_hash(splits: Sequence[SplitFacts]) -> str:
    """Return the SHA-256 of the hashes of all shards, in order."""
    hashes = "".join(shard.sha256 for facts in splits for shard in facts.shards)
    return hashlib.sha256(hashes.encode()).hexdigest()


def _moments(
    facts: ShardFacts, value_range: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, in units of the range; rounded to 6 digits."""
    low, high = value_range
    mean, std = [], []
    for total, squares in zip(facts.sums, facts.squares, strict=True):
        average = total / facts.pixels
        variance: Any = squares * facts.pixels - total * total  # exact for integers, before the division
        mean.append(round((average - low) / (high - low), 6))
        std.append(round(max(variance, 0) ** 0.5 / facts.pixels / (high - low), 6))
    return tuple(mean), tuple(std)


def _spread(values: Sequence[int]) -> Spread:
    return Spread(min(values), float(np.median(values)), max(values))
