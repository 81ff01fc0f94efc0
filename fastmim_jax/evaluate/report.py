"""What an evaluation comes to: accuracy in words, per class, and as a picture."""

import csv
import io
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.io import write_json, write_text

LISTED = 5  # classes that are named at the end of a run
NAMED = 40  # classes up to which a picture names them


def per_class(confusion):
    """(K,) share of each class that was recognised; NaN where there is no image of it."""
    count = confusion.sum(1)
    return np.where(count, np.diag(confusion) / np.maximum(count, 1), np.nan)


def summarize(predictions, source, classes):
    """{"images", "top1", "top5", "loss", "undecodable", "per_class": {name: accuracy or None}}."""
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


def describe(found):
    """Lines that say it: of `summarize`."""
    known = {name: x for name, x in found["per_class"].items() if x is not None}
    ordered = sorted(known, key=known.get)
    yield (
        f"{found['top1']:.2%} top-1, {found['top5']:.2%} top-5 of {found['images']:,} images, "
        f"cross-entropy {found['loss']:.4f}"
    )
    if found["undecodable"]:
        yield f"{found['undecodable']:,} records could not be decoded and count nowhere"
    shown = ", ".join(f"{name} {known[name]:.1%}" for name in ordered[:LISTED])
    yield f"worst classes: {shown}; best: {ordered[-1]} {known[ordered[-1]]:.1%}"


def write_report(best, source, classes, workdir):
    """Writes evaluation.json, confusion.csv and pictures/confusion.png.

    Args:
      best: (step of the checkpoint, Judged).
      source: what was evaluated on.
      classes: names.
      workdir: where to.

    Returns:
      Lines to print.
    """
    (step, predictions), workdir = best, Path(workdir)
    found = {"step": step, **summarize(predictions, source, classes)}
    lines = [f"best checkpoint: step {step:,}, {workdir / 'best'}", *describe(found)]
    if jax.process_index() == 0:
        confusion = predictions.confusion(len(classes))
        write_json(workdir / "evaluation.json", found)
        write_text(workdir / "confusion.csv", confusion_csv(confusion, classes))
        picture = draw_confusion(workdir / "pictures" / "confusion.png", confusion, classes)
        lines.append(f"per class: {workdir / 'evaluation.json'}, {workdir / 'confusion.csv'}, {picture}")
    return lines


def confusion_csv(confusion, classes):
    """Rows are true classes, columns the likeliest ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()


def draw_confusion(path, confusion, classes):
    """Draws shares of each true class; with the numbers and names where there is room -> the path.

    The row of a class without images is gray.
    """
    from matplotlib.figure import Figure  # slow to import, and needed nowhere else

    count = confusion.sum(1, keepdims=True)
    shares = np.where(count, confusion / np.maximum(count, 1), np.nan)
    named = len(classes) <= NAMED
    side = min(4 + 0.35 * len(classes), 12) if named else 9
    figure = Figure((side, side), layout="constrained")
    axes = figure.add_subplot(facecolor="lightgray")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if named:
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
