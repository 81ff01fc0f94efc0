"""Report an evaluation: accuracy as lines, per class, and as a picture."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.draw.confusion import draw_confusion
from fastmim_jax.evaluate.classify import Predictions
from fastmim_jax.io import write_json, write_text
from fastmim_jax.paths import to_text
from fastmim_jax.run_folder import BEST

CONFUSION = Path("pictures") / "confusion.png"  # in a work directory
LISTED = 5  # worst classes that the report names


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
        picture = draw_confusion(workdir / CONFUSION, confusion, classes, f"Evaluation after step {step:,}")
        lines.append(f"per class: {workdir / 'evaluation.json'}, {workdir / 'confusion.csv'}, {picture}")
    return lines


def confusion_csv(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return the confusion matrix as CSV: rows are true classes, columns the likeliest ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *map(to_text, classes)])
    writer.writerows([to_text(name), *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()
