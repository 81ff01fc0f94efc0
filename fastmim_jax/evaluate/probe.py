"""`fastmim probe`: probe the features of a backbone for classes, layer by layer.

Masked-image-modeling features score low for nearest neighbours, and mostly best some layers before the last
(so do the published ones); the ridge probe over all layers is the number to compare checkpoints by.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmim_jax.data.labels import with_classes
from fastmim_jax.data.sources import evaluation_split, labelled, open_source
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import BackboneStage, Features, open_backbone
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.evaluate.probes import attentive, knn, linear, ridge
from fastmim_jax.evaluate.probes.folds import split_folds
from fastmim_jax.evaluate.probes.result import Labelled, ProbeResult
from fastmim_jax.io import read_json, write_json
from fastmim_jax.paths import check_output
from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.eval_memory import fit_eval_batch
from fastmim_jax.train.first_process import of_first_process

ON_FEATURES: dict[str, Callable[[Labelled, Labelled, int], ProbeResult]] = {
    "ridge": ridge.probe,
    "knn": knn.probe,
    "linear": linear.probe,
}
KINDS = (*ON_FEATURES, "attentive")
FOLDS = 5  # default, where there is nothing to test on


class Images(NamedTuple):
    """Some records of a source: (n,) ascending."""

    source: Any
    records: np.ndarray


class Material(NamedTuple):
    """The data of the probes of a checkpoint.

    Attributes:
      backbone: of the checkpoint.
      parts: [(training Images, test Images)] of each fold.
      features: source of the parts -> Features of all its records in them.
      classes: number of classes.
    """

    backbone: BackboneStage
    parts: list[tuple[Images, Images]]
    features: Callable[[Any], Features]
    classes: int

    @property
    def bad(self) -> int:
        """Number of images that could not be decoded."""
        sources = {id(images.source): images.source for part in self.parts for images in part}
        return sum(self.features(source).bad for source in sources.values())


class Line(NamedTuple):
    """One probe of one layer.

    Attributes:
      kind: one of KINDS.
      layer: such as "block 12 mean"; of the attentive probe "block 12 tokens".
      accuracies: on the test images of each fold.
      held_out: accuracy on held-out training images; nan where nothing was chosen.
      setting: of the probe, such as "penalty 0.01".
    """

    kind: str
    layer: str
    accuracies: list[float]
    held_out: float
    setting: str

    def to_json(self) -> dict[str, Any]:
        """Return the line as probe.json has it."""
        fields = self._asdict()
        return {**{name: fields[name] for name in self._fields[:-1]}, "told": self.setting}


def probe(
    path: str | Path,
    images: str | None = None,
    *,
    kinds: Sequence[str] = ("ridge", "knn"),
    test: str | None = None,
    folds: int = 0,
    count: int = 20_000,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> list[Line]:
    """Probe a checkpoint and log a table of accuracies.

    Args:
      path, step, settings: see `train.runs.load_run`; pre-trained or fine-tuned.
      images: a labelled folder or data set; None for the data of the run.
      kinds: some of KINDS. "ridge" reads all layers; the others the one that it finds best on held-out
        training images, and the last.
      test: test images; None for the val or test split of `images`, or, where it has none, folds of it.
      folds: of cross-validation over `images`; 0 for none where there is something to test on, else 5.
      count: images at most, of training and of test data each, drawn at random.
      out: a JSON file for the table, or None.
      log: prints a line.
      progress: called with the number of images done.

    Returns:
      [Line].

    Raises:
      UserError: no checkpoint, no labels, classes that disagree, an unknown kind.
    """
    _check_kinds(kinds)
    loaded, backbone = open_backbone(path, step, settings=settings)
    if out and jax.process_index() == 0:
        check_output(out, "--out=", is_result=_is_table)
    parts, description = open_parts(loaded.config.data, images, test, folds, count)
    compare_inputs(loaded, *(source for source, _ in _records_of(parts).values()))
    log(f"{loaded.path}: {len(backbone.layers)} layers, {' and '.join(backbone.poolings)} of their tokens")
    for line in (description, *backbone.notes):
        log(line)
    most = max(len(records) for _, records in _records_of(parts).values())
    backbone = fit_eval_batch(backbone, backbone.pooled, most, log)
    material = extract(backbone, parts, progress)
    if material.bad:
        log(f"{material.bad:,} image{'s' * (material.bad != 1)} could not be decoded: left out")
    lines = _of_first(lambda: ridge_lines(material))
    best, last = max(lines, key=lambda line: line.held_out).layer, lines[-len(backbone.poolings)].layer
    for kind in kinds:
        if kind == "ridge":
            continue
        for layer in dict.fromkeys((best, last)):
            if kind == "attentive":  # its tokens are computed on the devices of all processes
                lines.append(probe_layer(kind, layer, material))
            else:
                lines += _of_first(partial(lambda *args: [probe_layer(*args)], kind, layer, material))
    for line in _table(lines, best):
        log(line)
    if out and jax.process_index() == 0:
        rows = [line.to_json() for line in lines]
        write_json(out, {"checkpoint": str(loaded.path), "best_layer": best, "lines": rows})
    return lines


def _of_first(function: Callable[[], list[Line]]) -> list[Line]:
    """Return the lines that the first process computes of the features, which all processes have."""
    return [Line(*line) for line in of_first_process(function)]


def _is_table(path: Path) -> bool:
    """Return whether `probe` wrote a file."""
    try:
        return {"checkpoint", "best_layer", "lines"} <= read_json(path, dict, "a table of probes").keys()
    except UserError:
        return False


def open_parts(
    data: Any, images: str | None, test: str | None, folds: int, count: int, seed: int = 0
) -> tuple[list[tuple[Images, Images]], str]:
    """Return [(training Images, test Images)] of each fold, and their description; see `probe`."""
    path = images or data.path
    split = evaluation_split(path)
    source = labelled(open_source(path, "train" if images else data.split))
    if folds or not (test or split):
        folds = folds or FOLDS
        records = sample_records(len(source), count, seed)
        fold_of = split_folds([source.label(int(record)) for record in records], folds, seed)
        parts = [
            (Images(source, records[fold_of != fold]), Images(source, records[fold_of == fold]))
            for fold in range(folds)
        ]
        return parts, f"{folds} folds of {len(records):,} of the images of {source!r}"
    other_path, other_split = (test, evaluation_split(test)) if test else (path, split)
    other = with_classes(open_source(other_path, other_split or "train"), source.classes)
    training = Images(source, sample_records(len(source), count, seed))
    testing = Images(other, sample_records(len(other), count, seed))
    description = (
        f"{len(training.records):,} images of {source!r}, tested on {len(testing.records):,} of {other!r}"
    )
    return [(training, testing)], description


def sample_records(total: int, count: int, seed: int) -> np.ndarray:
    """Return (n,) ascending record numbers, `count` of `total` at random, or all."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def extract(
    backbone: BackboneStage,
    parts: list[tuple[Images, Images]],
    progress: Callable[[int], None] | None = None,
) -> Material:
    """Return the features of all images of the parts."""
    features = {
        key: backbone.features(source, records=records, progress=progress)
        for key, (source, records) in _records_of(parts).items()
    }
    classes = len(parts[0][0].source.classes)
    return Material(backbone, parts, lambda source: features[id(source)], classes)


def _records_of(parts: list[tuple[Images, Images]]) -> dict[int, tuple[Any, np.ndarray]]:
    """Return {id of a source: (the source, its records in any part, ascending)}."""
    found: dict[int, tuple[Any, np.ndarray]] = {}
    for images in (images for part in parts for images in part):
        _, before = found.get(id(images.source), (None, images.records))
        found[id(images.source)] = images.source, np.union1d(before, images.records)
    return found


def ridge_lines(material: Material) -> list[Line]:
    """Return the ridge probe of every layer and pooling."""
    names, lines = material.features(material.parts[0][0].source).of, []
    for name in material.backbone.layer_of:
        if name in names:
            begin_unit()  # of an evaluation during training
            lines.append(probe_layer("ridge", name, material))
    return lines


def probe_layer(kind: str, layer: str, material: Material) -> Line:
    """Return one probe of one layer; layer: such as "block 12 mean"."""
    parts, classes = material.parts, material.classes
    if kind == "attentive":
        name = material.backbone.layer_of[layer]
        results = [attentive.probe(material.backbone, name, *part, classes) for part in parts]
        layer = f"{name} tokens"
    else:
        probe_features = ON_FEATURES[kind]
        pairs = [_arrays(material, layer, part) for part in parts]
        results = [probe_features(train, test, classes) for train, test in pairs]
    best = [result.held_out[result.best] for result in results if result.held_out]
    setting = results[0].setting if len(results) == 1 else f"{len(results)} folds"
    held_out = float(np.mean(best)) if best else float("nan")
    return Line(kind, layer, [result.accuracy for result in results], held_out, setting)


def _arrays(material: Material, layer: str, part: tuple[Images, Images]) -> list[Labelled]:
    """Return [(features, labels)] of the training and the test images of a part that could be decoded."""
    pairs = []
    for images in part:
        features = material.features(images.source)
        rows = np.flatnonzero(np.isin(features.index, images.records))
        pairs.append((features.of[layer][rows], features.label[rows]))
    return pairs


def _table(lines: Sequence[Line], best: str) -> Iterator[str]:
    has_folds = any(len(line.accuracies) > 1 for line in lines)
    yield f"{'probe':>10}  {'layer':<16}  {'accuracy':>9}" + ("  spread          " if has_folds else "")
    for line in lines:
        low, high = min(line.accuracies), max(line.accuracies)
        text = f"{line.kind:>10}  {line.layer:<16}  {np.mean(line.accuracies):>9.2%}"
        text += f"  {low:.2%} to {high:.2%}" if has_folds else ""
        mark = "  <- best on held-out training images" if (line.kind, line.layer) == ("ridge", best) else ""
        yield f"{text}  {line.setting}{mark}"
    if any(line.kind == "knn" for line in lines):
        yield "k-NN is low for masked image modeling, as published; compare checkpoints by the ridge probe"


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"no probe '{unknown[0]}'; choose from: {', '.join(KINDS)}")
    if not kinds:
        raise UserError(f"no probe given: type --kinds={','.join(KINDS)} or some of them")
