"""Accuracies that fine-tuning has to beat: of the majority class, and of a ridge probe before it begins."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import backbone_stage
from fastmim_jax.evaluate.probe import Images, extract, ridge_lines, sample_records
from fastmim_jax.io import write_json
from fastmim_jax.train.eval_memory import fit_eval_batch
from fastmim_jax.train.report import BASELINES_FILE, Note, read_baselines
from fastmim_jax.train.runs import LoadedRun

MAJORITY, RIDGE = "majority class", "ridge probe"
LABELS_READ = 200_000  # one by one, of a data set that cannot give all at once


def measure_baselines(
    config: Any,
    source: Any,
    held_out: Any,
    loaded: LoadedRun | None,
    workdir: str | Path,
    log: Callable[[str], None],
) -> list[Note]:
    """Return the accuracies to beat, as lines; they are measured once and stored in baselines.json.

    Args:
      config: of fine-tuning; `run.baseline_images` limits the images of the probe, 0 for no probe.
      source, held_out: labelled training and evaluation data.
      loaded: the checkpoint that fine-tuning starts from, or None.
      workdir: of the run.
      log: prints a line.
    """
    known = read_baselines(workdir)
    accuracies = dict(known[0].get("evaluation", {})) if known else {}
    if not accuracies:
        majority = majority_accuracy(source, held_out)
        accuracies = {} if majority is None else {MAJORITY: majority}
        if loaded is not None and config.run.baseline_images:
            ridge = _ridge_accuracy(loaded, source, held_out, config.run.baseline_images, log)
            accuracies |= {} if ridge is None else {RIDGE: ridge}
        if jax.process_index() == 0:
            write_json(Path(workdir) / BASELINES_FILE, [{"evaluation": accuracies}], indent=2)
    texts = {
        MAJORITY: "always the largest class of training",
        RIDGE: "of the frozen features of config.init",
    }
    notes = [Note("to beat", f"{accuracies[name]:.2%}, {name}: {texts[name]}") for name in accuracies]
    return notes


def majority_accuracy(source: Any, held_out: Any) -> float | None:
    """Return the accuracy of always predicting the largest class of training.

    None where the labels stand in the records, which would have to be read.
    """
    labels, tests = _labels(source), _labels(held_out)
    if labels is None or tests is None or not len(tests):
        return None
    (largest, _), *_ = Counter(labels.tolist()).most_common(1)
    return float((tests == largest).mean())


def _labels(source: Any) -> np.ndarray | None:
    labels = getattr(source, "all_labels", lambda: None)()
    if labels is None and getattr(source, "names_in_memory", True) and len(source) <= LABELS_READ:
        labels = np.array([source.label(index) for index in range(len(source))])
    return None if labels is None else np.asarray(labels)


def _ridge_accuracy(
    loaded: LoadedRun, source: Any, held_out: Any, count: int, log: Callable[[str], None]
) -> float | None:
    """Return the accuracy of the layer that is best on held-out training images; None, logged, if none."""
    parts = [
        (
            Images(source, sample_records(len(source), count, 0)),
            Images(held_out, sample_records(len(held_out), count, 0)),
        )
    ]
    try:
        backbone = backbone_stage(loaded)
        backbone = fit_eval_batch(backbone, backbone.pooled, min(count, len(source)), log)
        lines = ridge_lines(extract(backbone, parts))
    except UserError as error:
        log(f"no ridge probe to compare with: {error}")
        return None
    return float(max(lines, key=lambda line: line.held_out).accuracies[0])
