"""`fastmim evaluate` and `fastmim predict`: what a fine-tuned checkpoint says of images."""

import csv
import io

import jax
import numpy as np

from fastmim_jax.data.labels import check_classes, open_evaluation
from fastmim_jax.data.sources import evaluation_split, labelled, open_source
from fastmim_jax.evaluate.classify import classify
from fastmim_jax.evaluate.report import describe, summarize
from fastmim_jax.evaluate.tuning import open_finetuned
from fastmim_jax.io import write_text


def evaluate(path, images=None, *, step=None, out=None, log=print, progress=None):
    """Accuracy of a fine-tuned checkpoint.

    Args:
      path, step: as of `train.saved.load_run`.
      images: a labelled folder or data set with the classes of the checkpoint; its val or test split
        where it has one. None for what the run itself was evaluated on.
      out: a CSV file for the predictions, or None.

    Returns:
      As `verdict.summarize`.

    Raises:
      UserError: no fine-tuned checkpoint, no labels, other classes, nothing that can be decoded.
    """
    saved, run, variables = open_finetuned(path, step)
    if images is None:
        source = open_evaluation(run.config.data, run.classes)
    else:
        source = labelled(open_source(images, evaluation_split(images) or "train"))
        check_classes(source, run.classes)
    log(f"{saved.path} on {source!r}")
    predictions = classify(run, variables, source, progress=progress)
    found = summarize(predictions, source, run.classes)
    for line in describe(found):
        log(line)
    for name, share in found["per_class"].items():
        log(f"{name:>24}  " + ("no image" if share is None else f"{share:.1%}"))
    if out and jax.process_index() == 0:
        write_text(out, predictions_csv(predictions, source, run.classes))
        log(f"predictions: {out}")
    return found


def predict(path, images, *, step=None, out=None, log=print, progress=None):
    """Tells the likeliest classes of images, whether they are labelled or not.

    Args:
      images: an image file, a folder or a data set. The others as of `evaluate`.
    """
    saved, run, variables = open_finetuned(path, step)
    source = open_source(images, evaluation_split(images) or "train")
    predictions = classify(run, variables, source, progress=progress)
    if out:
        if jax.process_index() == 0:
            write_text(out, predictions_csv(predictions, source, run.classes))
            log(f"predictions of {len(predictions.index):,} images by {saved.path}: {out}")
    else:
        for row, index in enumerate(predictions.index):
            pairs = zip(predictions.best[row], predictions.probability[row], strict=True)
            told = ", ".join(f"{run.classes[best]} {share:.1%}" for best, share in pairs)
            log(f"{source.name(int(index))}: {told}")
    if predictions.bad:
        log(f"{predictions.bad:,} images could not be decoded")
    return predictions


def predictions_csv(predictions, source, classes):
    """A line per image: name, true class or "", five likeliest classes and their probabilities.

    classes: of the checkpoint; those of the source may be others.
    """
    text, count = io.StringIO(), predictions.best.shape[1]
    writer = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}_{rank}" for rank in range(1, count + 1) for what in ("class", "probability")]
    writer.writerow(["name", "true_class", *ranks])
    for row, index in enumerate(predictions.index):
        label = predictions.label[row]
        told = [
            (classes[best], f"{share:.6f}")
            for best, share in zip(predictions.best[row], predictions.probability[row], strict=True)
        ]
        true = source.classes[label] if label >= 0 else ""
        writer.writerow([source.name(int(index)), true, *np.ravel(told).tolist()])
    return text.getvalue()
