"""`fastmim probe`: how much a simple reader finds in the features of a frozen backbone, layer by layer.

Masked-image-modeling features score low for nearest neighbours and mostly best some layers before the last
(so do the published ones); the ridge probe over all layers is the number to compare checkpoints by.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fastmim_jax.data.labels import check_classes
from fastmim_jax.data.sources import evaluation_split, labelled, open_source
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.probes import attentive, knn, linear, ridge
from fastmim_jax.evaluate.probes.folds import folds as split_folds
from fastmim_jax.io import write_json

ON_FEATURES = {"ridge": ridge.probe, "knn": knn.probe, "linear": linear.probe}
KINDS = (*ON_FEATURES, "attentive")
FOLDS = 5  # where there is nothing to test on and no number is given


class Images(NamedTuple):
    """Some records of a source: (n,) ascending."""

    source: object
    records: np.ndarray


class Material(NamedTuple):
    """What the probes of a checkpoint read.

    frozen: the backbone. parts: [(training Images, test Images)] of each fold.
    features: `frozen.Features` -> by source of the parts, of all their records. classes: number of them.
    """

    frozen: object
    parts: list
    features: Callable
    classes: int

    @property
    def bad(self):
        """How many of the images could not be decoded."""
        sources = {id(images.source): images.source for part in self.parts for images in part}
        return sum(self.features(source).bad for source in sources.values())


class Line(NamedTuple):
    """One probe of one layer: test accuracy of each fold, held-out accuracy where something was chosen."""

    kind: str
    layer: str
    accuracies: list
    held_out: float
    told: str


def probe(path, images=None, *, kinds=("ridge", "knn"), test=None, folds=0, count=20_000, step=None,
          out=None, log=print, progress=None):  # fmt: skip
    """Probes a checkpoint and tells a table.

    Args:
      path, step: as of `train.saved.load_run`; pre-trained or fine-tuned.
      images: a labelled folder or data set; None for the data of the run.
      kinds: some of KINDS. "ridge" reads all layers; the others the one that it finds best on held-out
        training images, and the last.
      test: what to test on; None for the val or test split of `images`, or, where it has none, folds of it.
      folds: of cross-validation over `images`; 0 for none where there is something to test on, else 5.
      count: images at most, of training and of test data each, drawn at random.
      out: a JSON file for the table, or None.
      say, progress: told lines, and how many images are done.

    Returns:
      [Line].

    Raises:
      UserError: no checkpoint, no labels, classes that disagree, an unknown kind.
    """
    _check_kinds(kinds)
    loaded, frozen = open_backbone(path, step)
    parts, told = open_parts(loaded.config.data, images, test, folds, count)
    log(f"{loaded.path}: {len(frozen.layers)} layers, {' and '.join(frozen.poolings)} of their tokens")
    for line in (told, *frozen.notes):
        log(line)
    material = read(frozen, parts, progress)
    if material.bad:
        log(f"{material.bad:,} of the images could not be decoded and are left out")
    lines = ridge_lines(material)
    best, last = max(lines, key=lambda line: line.held_out).layer, lines[-len(frozen.poolings)].layer
    for kind in [kind for kind in kinds if kind != "ridge"]:
        lines += [probe_layer(kind, layer, material) for layer in dict.fromkeys((best, last))]
    for line in _table(lines, best):
        log(line)
    if out and jax.process_index() == 0:
        found = {"checkpoint": str(loaded.path), "best_layer": best, "lines": [x._asdict() for x in lines]}
        write_json(out, found)
    return lines


def open_parts(data, images, test, folds, count, seed=0):
    """-> ([(training Images, test Images)] of each fold, a sentence about them); see `probe`."""
    path = images or data.path
    split = evaluation_split(path)
    source = labelled(open_source(path, "train" if images else data.split))
    if folds or not (test or split):
        rows = draw(len(source), count, seed)
        number = split_folds([source.label(int(row)) for row in rows], folds or FOLDS, seed)
        parts = [
            (Images(source, rows[number != fold]), Images(source, rows[number == fold]))
            for fold in range(folds or FOLDS)
        ]
        return parts, f"{folds or FOLDS} folds of {len(rows):,} of the images of {source!r}"
    other = labelled(
        open_source(test, evaluation_split(test) or "train") if test else open_source(path, split)
    )
    check_classes(other, source.classes)
    part = (
        Images(source, draw(len(source), count, seed)),
        Images(other, draw(len(other), count, seed)),
    )
    told = f"{len(part[0].records):,} images of {source!r}, tested on {len(part[1].records):,} of {other!r}"
    return [part], told


def draw(there, count, seed):
    """(n,) ascending records, `count` of those that are there, or all."""
    return np.sort(np.random.default_rng(seed).permutation(there)[:count])


def read(frozen, parts, progress=None):
    """Material: the features of all images of the parts."""
    wanted = {}
    for images in (images for part in parts for images in part):
        wanted.setdefault(id(images.source), (images.source, []))[1].append(images.records)
    found = {
        key: frozen.features(source, records=np.unique(np.concatenate(records)), progress=progress)
        for key, (source, records) in wanted.items()
    }
    classes = len(parts[0][0].source.classes)
    return Material(frozen, parts, lambda source: found[id(source)], classes)


def ridge_lines(material):
    """[Line] of the ridge probe of every layer and pooling."""
    names = list(material.features(material.parts[0][0].source).of)
    return [probe_layer("ridge", name, material) for name in material.frozen.layer_of if name in names]


def probe_layer(kind, layer, material):
    """One Line; layer: such as "block 12 mean"."""
    if kind == "attentive":
        name = material.frozen.layer_of[layer]
        found = [attentive.probe(material.frozen, name, *part, material.classes) for part in material.parts]
        layer = f"{name} tokens"
    else:
        found = [ON_FEATURES[kind](*_arrays(material, layer, part), material.classes)
                 for part in material.parts]  # fmt: skip
    tried = [max(result.tried.values()) for result in found if result.tried]
    told = found[0].told if len(found) == 1 else f"{len(found)} folds"
    held_out = float(np.nanmean(tried)) if tried else float("nan")
    return Line(kind, layer, [result.accuracy for result in found], held_out, told)


def _arrays(material, layer, part):
    """[(features, labels)] of the training and the test images of a part that could be decoded."""
    pairs = []
    for images in part:
        found = material.features(images.source)
        rows = np.flatnonzero(np.isin(found.index, images.records))
        pairs.append((found.of[layer][rows], found.label[rows]))
    return pairs


def _table(lines, best):
    spread = any(len(line.accuracies) > 1 for line in lines)
    yield f"{'probe':>10}  {'layer':<16}  {'accuracy':>9}" + ("  spread          " if spread else "")
    for line in lines:
        low, high = min(line.accuracies), max(line.accuracies)
        text = f"{line.kind:>10}  {line.layer:<16}  {np.mean(line.accuracies):>9.2%}"
        text += f"  {low:.2%} to {high:.2%}" if spread else ""
        mark = "  <- best on held-out training images" if (line.kind, line.layer) == ("ridge", best) else ""
        yield f"{text}  {line.told}{mark}"
    if any(line.kind == "knn" for line in lines):
        yield "k-NN is low for masked image modeling, as published; compare checkpoints by the ridge probe"


def _check_kinds(kinds):
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UserError(
            f"there is no probe '{', '.join(unknown)}': type --kinds={','.join(KINDS)} or some of them"
        )
