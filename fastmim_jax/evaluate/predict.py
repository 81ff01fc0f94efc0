"""`fastmim evaluate` and `fastmim predict`: classify images with a fine-tuned checkpoint."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.data.labels import open_evaluation, trained_on, with_classes
from fastmim_jax.data.sources import evaluation_split, open_source
from fastmim_jax.evaluate.classify import Predictions, classify
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.evaluate.report import describe, summarize
from fastmim_jax.io import write_text
from fastmim_jax.paths import check_output, to_text
from fastmim_jax.train.eval_memory import fit_eval_batch
from fastmim_jax.train.inference import open_classifier


def evaluate(
    path: str | Path,
    images: str | None = None,
    *,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of a fine-tuned checkpoint.

    Args:
      path, step, settings: see `train.runs.load_run`.
      images: a labelled folder or data set with the classes of the checkpoint; its val or test split
        where it has one. None for the evaluation data of the run.
      out: a CSV file for the predictions, or None.
      log: prints a line.
      progress: called with the number of images done.

    Returns:
      The summary, see `report.summarize`.

    Raises:
      UserError: no fine-tuned checkpoint, no labels, other classes, no image that can be decoded.
    """
    _check(out)
    loaded, stage = open_classifier(path, step, settings=settings)
    if images is None:
        source = open_evaluation(loaded.config.data, stage.classes)
    else:
        source = with_classes(open_source(images, evaluation_split(images) or "train"), stage.classes)
        if trained_on(images, loaded.config.data):
            log(f"{images} holds images of training too: leave out --images for those held out")
    compare_inputs(loaded, source)
    log(f"{loaded.path} on {source!r}")
    stage = fit_eval_batch(stage, stage.classify, len(source), log)
    predictions = classify(stage, stage.variables, source, progress=progress)
    summary = summarize(predictions, source, stage.classes)
    for line in describe(summary):
        log(line)
    for name, share in summary["per_class"].items():
        log(f"{name:>24}  " + ("no image" if share is None else f"{share:.1%}"))
    if out and jax.process_index() == 0:
        write_text(out, predictions_csv(predictions, source, stage.classes))
        log(f"predictions: {out}")
    return summary


def predict(
    path: str | Path,
    images: str,
    *,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict the likeliest classes of images, labelled or not.

    Args:
      images: an image file, a folder or a data set. The others: see `evaluate`.
    """
    _check(out)
    loaded, stage = open_classifier(path, step, settings=settings)
    source = open_source(images, evaluation_split(images) or "train")
    compare_inputs(loaded, source)
    stage = fit_eval_batch(stage, stage.classify, len(source), log)
    predictions = classify(stage, stage.variables, source, progress=progress)
    if out:
        if jax.process_index() == 0:
            write_text(out, predictions_csv(predictions, source, stage.classes))
            log(f"predictions of {len(predictions.index):,} images by {loaded.path}: {out}")
    else:
        for row, index in enumerate(predictions.index):
            pairs = zip(predictions.best[row], predictions.probability[row], strict=True)
            text = ", ".join(f"{stage.classes[best]} {share:.1%}" for best, share in pairs)
            log(f"{to_text(source.name(int(index)))}: {text}")
    if predictions.bad:
        log(f"{predictions.bad:,} image{'s' * (predictions.bad != 1)} could not be decoded")
    return predictions


def _check(out: str | Path | None) -> None:
    if out and jax.process_index() == 0:
        check_output(out, "--out=", is_result=_is_predictions)


def _is_predictions(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(100).startswith(b"name,true_class,class_1,probability_1")


def predictions_csv(predictions: Predictions, source: Any, classes: Sequence[str]) -> str:
    """Return a line per image: name, true class or "", five likeliest classes and their probabilities.

    Names are written by `to_text`. classes: of the checkpoint; those of the source may be others.
    """
    text, count = io.StringIO(), predictions.best.shape[1]
    writer = csv.writer(text, lineterminator="\n")
    header = [f"{column}_{rank}" for rank in range(1, count + 1) for column in ("class", "probability")]
    writer.writerow(["name", "true_class", *header])
    for row, index in enumerate(predictions.index):
        label, cells = predictions.label[row], []
        for best, share in zip(predictions.best[row], predictions.probability[row], strict=True):
            cells += [to_text(classes[best]), f"{share:.6f}"]
        true_class = source.classes[label] if label >= 0 else ""
        writer.writerow([*map(to_text, (source.name(int(index)), true_class)), *cells])
    return text.getvalue()
