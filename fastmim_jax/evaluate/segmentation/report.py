"""Report a segmentation: mIoU as lines, a table of classes, and files."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.draw.confusion import draw_confusion
from fastmim_jax.evaluate.report import confusion_csv
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.evaluate.segmentation.segment_images import SegmentationResult
from fastmim_jax.io import write_json, write_text
from fastmim_jax.paths import to_text
from fastmim_jax.run_folder import BEST

LISTED = 20  # classes that the lines name, the worst and the best of more


def summarize(result: SegmentationResult, source: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores of a data set for JSON; None for a class that neither mask nor prediction has."""
    found = scores(result.confusion)
    return {
        "data": repr(source),
        "images": result.images,
        "unreadable": len(result.unreadable),
        "miou": _number(found.miou),
        "pixel_accuracy": _number(found.pixel_accuracy),
        "mean_class_accuracy": _number(found.mean_class_accuracy),
        "per_class": {
            name: {"iou": _number(iou), "accuracy": _number(accuracy), "share": float(share)}
            for name, iou, accuracy, share in zip(
                classes, found.iou, found.class_accuracy, found.frequencies, strict=True
            )
        },
    }


def _number(x: float) -> float | None:
    return None if math.isnan(x) else float(x)


def describe(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a summary: the scores, and a table of classes."""
    yield (
        f"mIoU {_percent(summary['miou'])}, pixel accuracy {_percent(summary['pixel_accuracy'])}, "
        f"mean class accuracy {_percent(summary['mean_class_accuracy'])} of {summary['images']:,} "
        f"image{'s' * (summary['images'] != 1)}"
    )
    if summary["unreadable"]:
        yield f"{summary['unreadable']:,} could not be read: not counted"
    table = [(name, line) for name, line in summary["per_class"].items() if line["iou"] is not None]
    table.sort(key=lambda item: item[1]["iou"])
    left_out = len(table) - LISTED
    if left_out > 0:
        table = [*table[: LISTED // 2], *table[-LISTED // 2 :]]
    for number, (name, line) in enumerate(table):
        if left_out > 0 and number == LISTED // 2:
            yield f"{'...':>24}  {left_out:,} more classes"
        share = f"{line['share']:.1%} of the pixels"
        yield f"{to_text(name):>24}  IoU {_percent(line['iou']):>7}, {share}"


def _percent(x: float | None) -> str:
    return "none" if x is None else f"{x:.2%}"


def write_report(
    step: int, result: SegmentationResult, source: Any, classes: Sequence[str], workdir: str | Path
) -> list[str]:
    """Write evaluation.json, classes.csv, confusion.csv and pictures/confusion.png of the best checkpoint.

    Returns:
      The report as lines.
    """
    workdir = Path(workdir)
    summary = {"step": step, **summarize(result, source, classes)}
    lines = [f"best checkpoint: step {step:,}, {workdir / BEST}", *describe(summary)]
    if jax.process_index() == 0:
        write_json(workdir / "evaluation.json", summary)
        write_text(workdir / "classes.csv", classes_csv(summary))
        write_text(workdir / "confusion.csv", confusion_csv(result.confusion, classes))
        picture = workdir / "pictures" / "confusion.png"
        draw_confusion(picture, result.confusion, classes, noun="pixels")
        lines.append(f"per class: {workdir / 'classes.csv'}, {workdir / 'confusion.csv'}")
    return lines


def classes_csv(summary: dict[str, Any]) -> str:
    """Return a line per class: name, IoU, accuracy, share of the pixels; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "iou", "accuracy", "share"])
    for name, line in summary["per_class"].items():
        cells = ["" if line[key] is None else f"{line[key]:.6f}" for key in ("iou", "accuracy", "share")]
        writer.writerow([to_text(name), *cells])
    return text.getvalue()
