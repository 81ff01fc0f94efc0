"""The table of dense probes: a line for each layer and baseline, as arrays, as text and as JSON."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.dense_probes.linear import LayerScores
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.io import read_json

KINDS = ("segmentation", "knn_segmentation", "depth")
MOST_CLASSES = 40  # printed one by one
LOWER_IS_BETTER = ("rmse", "abs_rel")


class DenseLine(NamedTuple):
    """A probe of one layer, or a baseline.

    Attributes:
      kind: one of KINDS.
      layer: such as "block 12"; COLORS, or a baseline such as "always sky".
      scores: on the test images: mIoU, pixels and classes (accuracies), or d1, rmse (metres) and abs_rel.
      held_out: main score on the images to choose by; nan for a baseline that chooses nothing.
      setting: such as "learning rate 0.001".
      iou: of each class; [] for depth.
    """

    kind: str
    layer: str
    scores: dict[str, float]
    held_out: float = float("nan")
    setting: str = ""
    iou: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the line as the JSON file has it, null for nan."""
        numbers = {"held_out": _or_null(self.held_out), "iou": [_or_null(value) for value in self.iou]}
        found = {name: _or_null(value) for name, value in self.scores.items()}
        return {**self._asdict(), **numbers, "scores": found}


@dataclasses.dataclass(frozen=True, eq=False)
class DenseTable:
    """The n lines of dense probes of a checkpoint, baselines included.

    Attributes:
      checkpoint: its path.
      evaluated_on: how images were read to evaluate linear heads.
      lines: in the order of the kinds.
      classes: names of the K classes; () for depth alone.
    """

    checkpoint: str
    evaluated_on: str
    lines: list[DenseLine]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[DenseLine]:
        return iter(self.lines)

    @property
    def kinds(self) -> list[str]:
        """n kinds of probes."""
        return [line.kind for line in self.lines]

    @property
    def layers(self) -> list[str]:
        """n names of layers and baselines."""
        return [line.layer for line in self.lines]

    @property
    def held_out(self) -> np.ndarray:
        """(n,) main scores on the images to choose by; nan for a baseline that chooses nothing."""
        return np.array([line.held_out for line in self.lines])

    @property
    def iou(self) -> np.ndarray:
        """(n, K) IoU of each class on the test images; nan where there is none."""
        absent = [np.nan] * len(self.classes)
        return np.array([list(line.iou) or absent for line in self.lines])

    def scores(self, name: str) -> np.ndarray:
        """Return (n,) scores of a name on the test images, such as "mIoU"; nan for the kinds without it.

        Raises:
          UserError: no line has a score of this name.
        """
        names = dict.fromkeys(name for line in self.lines for name in line.scores)
        if name not in names:
            raise UserError(f"no score '{name}'; choose from: {', '.join(names)}")
        return np.array([line.scores.get(name, np.nan) for line in self.lines])

    def best(self, kind: str) -> DenseLine:
        """Return the line of a kind whose layer is best on the images to choose by.

        Raises:
          UserError: no line of this kind.
        """
        found = [line for line in self.lines if line.kind == kind and not np.isnan(line.held_out)]
        if not found:
            raise UserError(f"no probe '{kind}'; choose from: {', '.join(dict.fromkeys(self.kinds))}")
        return max((line for line in found if line.layer != COLORS), key=lambda line: line.held_out)

    def to_json(self) -> dict[str, Any]:
        """Return the table as the JSON file has it."""
        return {
            "checkpoint": self.checkpoint,
            "evaluated_on": self.evaluated_on,
            "classes": [*self.classes],
            "dense": [line.to_json() for line in self.lines],
        }

    def __repr__(self) -> str:
        rows = "".join(f"\n{row(line)}" for line in self.lines)
        return f"DenseTable of {self.checkpoint}{rows}"


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value


def row(line: DenseLine, mark: str = "") -> str:
    """Return a line as text; mark: at its end."""
    values = "  ".join(f"{name} {value_text(name, value):>7}" for name, value in line.scores.items())
    return f"{line.kind:>16}  {line.layer:<16}  {values}  {line.setting}{mark}".rstrip()


def value_text(name: str, value: float) -> str:
    """Return a score as text, shares as percentages."""
    return f"{value:.3f}" if name in LOWER_IS_BETTER else f"{value:.2%}"


def class_table(names: tuple[str, ...], best: LayerScores) -> Iterator[str]:
    """Yield a line for each class, or a count of them where there are many."""
    found = scores(best.counts)
    present = [k for k in range(len(names)) if not np.isnan(found.iou[k])]
    width = max(len(names[k]) for k in present) if present else 0
    yield f"IoU of the classes, {best.layer}; share of the pixels of the test images"
    for k in sorted(present, key=lambda k: -found.frequencies[k])[:MOST_CLASSES]:
        yield f"  {names[k]:<{width}}  {found.iou[k]:>7.2%}  {found.frequencies[k]:>7.2%}"
    if len(present) > MOST_CLASSES:
        yield f"  {len(present) - MOST_CLASSES:,} rarer classes are in the table of --out"
    absent = len(names) - len(present)
    if absent:
        yield f"  {absent:,} of {len(names):,} classes are neither in the test images nor predicted"


def is_table(path: Path) -> bool:
    """Return whether `dense_probe` wrote a file."""
    try:
        return {"checkpoint", "dense"} <= read_json(path, dict, "a table of dense probes").keys()
    except UserError:
        return False
