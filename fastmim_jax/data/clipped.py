"""Values outside of the range of a data set, which are clipped, and missing ones: counted and reported."""

from collections.abc import Mapping

import numpy as np

from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.values import ValueCounts

FIELD = "value_counts"  # of a batch: a row of `as_row` for each image, 0 where an image is repeated


def counts_values(rules: DecodeRules) -> bool:
    """Return whether the values of images are counted: they have more than 8 bits, or nodata values."""
    return bool(rules.dtype and (rules.value_range or rules.nodata))


def as_row(counts: ValueCounts) -> tuple[float, ...]:
    """Return the row of an image in a batch."""
    return (counts.values, counts.below, counts.above, counts.missing, counts.lowest, counts.highest)


ROW_FIELD = ((6,), np.dtype(np.float64))


class ClippedValues:
    """The values of the images that this process has read.

    Attributes:
      images: number of them. clipped_images: those with values outside of the range.
      counts: of all.
    """

    def __init__(self, rules: DecodeRules):
        self._rules = rules
        self.images = self.clipped_images = 0
        self.counts = ValueCounts()

    def update(self, batch: Mapping[str, np.ndarray]) -> None:
        """Add the images of a batch of a loader."""
        if FIELD not in batch:
            return
        rows = batch[FIELD][batch[FIELD][:, 0] > 0]
        self.images += len(rows)
        self.clipped_images += int((rows[:, 1:3] > 0).any(axis=1).sum())
        total, counts = rows.sum(axis=0), self.counts
        counts.values += int(total[0])
        counts.below += int(total[1])
        counts.above += int(total[2])
        counts.missing += int(total[3])
        counts.lowest = min(counts.lowest, *rows[:, 4])
        counts.highest = max(counts.highest, *rows[:, 5])

    def metrics(self) -> dict[str, float]:
        """Return {"clipped_share", "missing_share"} of all values; {} where none are counted."""
        counts = self.counts
        if not counts.values:
            return {}
        clipped = (counts.below + counts.above) / counts.values
        return {"clipped_share": clipped, "missing_share": counts.missing / counts.values}

    def summary(self) -> str | None:
        """Return one sentence for the end of a run, or None where nothing is clipped or missing."""
        counts, sentences = self.counts, []
        if counts.below or counts.above:
            low, high = self._rules.value_range or (0.0, 255.0)
            wider = min(counts.lowest, low), max(counts.highest, high)
            sentences.append(
                f"{self._share(counts.below)} below and {self._share(counts.above)} above the range "
                f"{low:g} to {high:g} became black or white, in {self.clipped_images:,} of {self.images:,} "
                f"images read; none with --config.data.value_range='({wider[0]:.9g}, {wider[1]:.9g})'"
            )
        if counts.missing:
            sentences.append(f"{self._share(counts.missing)} were nodata or not finite and became black")
        return "values: " + "; ".join(sentences) if sentences else None

    def _share(self, number: int) -> str:
        return f"{number:,} ({number / self.counts.values:.2g} of all)"
