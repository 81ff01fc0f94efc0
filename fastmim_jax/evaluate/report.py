"""Report an evaluation: accuracy as lines, per class, and as a picture."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.draw.confusion import draw_confusion
from fastmim_jax.draw.curve import draw_accuracy, step_axis
from fastmim_jax.evaluate.classify import Predictions
from fastmim_jax.io import write_json, write_text
from fastmim_jax.paths import to_text
from fastmim_jax.run_folder import BEST
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.report import read_baselines

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
    """Write evaluation.json, confusion.csv, and the pictures of `draw_evaluation` of the best checkpoint.

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
        write_json(workdir / "evaluation.json", summary)
        confusion = predictions.confusion(len(classes))
        write_text(workdir / "confusion.csv", confusion_csv(confusion, classes))
        pictures = draw_evaluation(step, predictions, classes, workdir)
        files = [workdir / "evaluation.json", workdir / "confusion.csv", pictures["confusion"]]
        lines += [f"per class: {', '.join(map(str, files))}", f"curve:     {pictures['curve']}"]
    return lines


def draw_evaluation(
    step: int, predictions: Predictions, classes: Sequence[str], workdir: str | Path
) -> dict[str, Path]:
    """Draw the confusion matrix of an evaluation, and the accuracies of all evaluations of the run so far.

    Returns:
      {name: path}, names as loggers show them.
    """
    folder, title = Path(workdir) / "pictures", f"Evaluation after step {step:,}"
    confusion = predictions.confusion(len(classes))
    lines = [line for line in read_metrics(workdir).records if "top1" in line]
    accuracies = {line["step"]: line["top1"] for line in lines} | {step: predictions.top1}
    curve = draw_accuracy(
        folder / "curve.png",
        list(accuracies),
        list(accuracies.values()),
        baselines=next(iter(read_baselines(workdir)), {}).get("evaluation"),
        title="Fine-tuning",
        x=step_axis([line for line in read_metrics(workdir).records if "epoch" in line]),
        y="accuracy, likeliest class",
    )
    return {
        "confusion": draw_confusion(folder / "confusion.png", confusion, classes, title),
        "curve": curve,
    }


def confusion_csv(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return the confusion matrix as CSV: rows are true classes, columns the likeliest ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *map(to_text, classes)])
    writer.writerows([to_text(name), *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()
