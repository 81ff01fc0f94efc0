"""Report an evaluation: accuracy as lines, per class, and as a picture."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.evaluate.classify import Predictions
from fastmim_jax.io import write_json, write_text
from fastmim_jax.paths import to_text
from fastmim_jax.run_folder import BEST

LISTED = 5  # worst classes that the report names
NAMED = 40  # classes up to which a picture names them


def per_class(confusion: np.ndarray) -> np.ndarray:
    """Return the (K,) accuracy of each class; NaN where it has no image."""
    count = confusion.sum(1)
    return np.where(count, np.diag(confusion) / np.maximum(count, 1), np.nan)


def summarize(predictions: Predictions, source: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Return {"images", "top1", "top5", "loss", "undecodable", "per_class": {name: accuracy or None}}."""
    accuracy = per_class(predictions.confusion(len(classes)))
    return {
        "data": repr(source),
        "images": len(predictions.index),
        "undecodable": predictions.bad,
        "top1": predictions.top1,
        "top5": predictions.top5,
        "loss": float(predictions.loss.mean(dtype=np.float64)),
        "per_class": {
            name: None if np.isnan(x) else float(x) for name, x in zip(classes, accuracy, strict=True)
        },
    }


def describe(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a summary, see `summarize`."""
    accuracy = {name: x for name, x in summary["per_class"].items() if x is not None}
    ascending = sorted(accuracy, key=lambda name: accuracy[name])
    yield (
        f"{summary['top1']:.2%} top-1, {summary['top5']:.2%} top-5 of {summary['images']:,} "
        f"image{'s' * (summary['images'] != 1)}, cross-entropy {summary['loss']:.4f}"
    )
    bad = summary["undecodable"]
    if bad:
        yield f"{bad:,} image{'s' * (bad != 1)} could not be decoded: not counted"
    worst = ", ".join(f"{name} {accuracy[name]:.1%}" for name in ascending[:LISTED])
    yield f"worst classes: {worst}; best: {ascending[-1]} {accuracy[ascending[-1]]:.1%}"


def write_report(
    step: int, predictions: Predictions, source: Any, classes: Sequence[str], workdir: str | Path
) -> list[str]:
    """Write evaluation.json, confusion.csv and pictures/confusion.png of the best checkpoint.

    Args:
      step: of the checkpoint.
      predictions: of the checkpoint for all images of `source`.
      classes: their names.

    Returns:
      The report as lines.
    """
    workdir = Path(workdir)
    summary = {"step": step, **summarize(predictions, source, classes)}
    lines = [f"best checkpoint: step {step:,}, {workdir / BEST}", *describe(summary)]
    if jax.process_index() == 0:
        confusion = predictions.confusion(len(classes))
        write_json(workdir / "evaluation.json", summary)
        write_text(workdir / "confusion.csv", confusion_csv(confusion, classes))
        picture = draw_confusion(workdir / "pictures" / "confusion.png", confusion, classes)
        lines.append(f"per class: {workdir / 'evaluation.json'}, {workdir / 'confusion.csv'}, {picture}")
    return lines


def confusion_csv(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return the confusion matrix as CSV: rows are true classes, columns the likeliest ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *map(to_text, classes)])
    writer.writerows([to_text(name), *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()


def draw_confusion(path: str | Path, confusion: np.ndarray, classes: Sequence[str]) -> Path:
    """Draw the share of each true class, with numbers and names where there is room; return the path.

    The row of a class without images is gray.
    """
    from matplotlib.figure import Figure  # slow import

    count = confusion.sum(1, keepdims=True)
    shares = np.where(count, confusion / np.maximum(count, 1), np.nan)
    named = len(classes) <= NAMED
    side = min(4 + 0.35 * len(classes), 12) if named else 9
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot(facecolor="lightgray")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if named:
        classes = list(map(to_text, classes))
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= NAMED // 2:
        for row, column in np.argwhere(confusion):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="likeliest class", ylabel="true class")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
