"""Mean, spread and differences of the accuracies of several seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tables.markdown import Lines


class Summary(NamedTuple):
    """Accuracies of several seeds, in percent: n, mean, lowest, highest, standard error of the mean.

    The standard error is NaN for a single seed.
    """

    n: int
    mean: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.1f} %"
        return f"{self.mean:.1f} % ({self.low:.1f} to {self.high:.1f})"


class Difference(NamedTuple):
    """The difference of two means, in points, and the pooled standard error; NaN for single seeds."""

    points: float
    error: float

    def __str__(self) -> str:
        errors = "" if math.isnan(self.error) else f", {self.times:.1f} standard errors"
        return f"{self.points:+.1f} points{errors}"

    @property
    def times(self) -> float:
        """The difference over its standard error."""
        return abs(self.points) / self.error if self.error else math.inf

    @property
    def verdict(self) -> str:
        """Whether the difference is more than twice its standard error."""
        if math.isnan(self.error):
            return "one seed: no verdict"
        if self.times <= 2:
            return "no measurable difference"
        return "better" if self.points > 0 else "worse"


def summarize(shares: Sequence[float]) -> Summary:
    """Summarize accuracies between 0 and 1, at least one."""
    values = [100 * share for share in shares]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Summary(len(values), statistics.fmean(values), min(values), max(values), error)


def difference(ours: Summary, other: Summary) -> Difference:
    """Return ours minus the other, with the pooled standard error sqrt(a^2 + b^2)."""
    return Difference(ours.mean - other.mean, math.hypot(ours.error, other.error))


def of_arms(lines: Lines, key: str) -> dict[str, Summary]:
    """Return {name: Summary of `key`} of the lines that have it, in their order."""
    names = dict.fromkeys(line["name"] for line in lines if key in line)
    return {name: summarize([x[key] for x in lines if x["name"] == name and key in x]) for name in names}
