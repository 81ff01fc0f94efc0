"""`fastmim probe` for every pixel: segmentation and depth from frozen features, layer by layer."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmim_jax.data.masks.augment import fit
from fastmim_jax.data.masks.depths import MILLIMETRE, STEP
from fastmim_jax.draw.depths import DepthPicture, draw_depths
from fastmim_jax.draw.overlays import LabelledPicture, draw_segmentations
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.dense_probes import knn, linear
from fastmim_jax.evaluate.dense_probes.heads import RATES
from fastmim_jax.evaluate.dense_probes.linear import LayerScores, LinearProbe
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial, open_depth, open_segmentation
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS, PatchFeatures, choose_layers
from fastmim_jax.evaluate.dense_probes.tasks import DepthTask, SegmentationTask
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.io import read_json, write_json
from fastmim_jax.paths import check_output
from fastmim_jax.train.runs import LoadedRun

KINDS = ("segmentation", "knn_segmentation", "depth")
PICTURES = 6  # test images drawn
MOST_CLASSES = 40  # printed one by one
LOWER_IS_BETTER = ("rmse", "abs_rel")


class DenseLine(NamedTuple):
    """A probe of one layer, or a baseline.

    Attributes:
      kind: one of KINDS.
      layer: such as "block 12"; COLORS, or a baseline such as "always sky".
      scores: on the test images: mIoU, pixels and classes (accuracies), or d1, rmse (metres) and abs_rel.
      held_out: main score on the images to choose by; nan for a baseline that chooses nothing.
      setting: such as "learning rate 0.001".
      iou: of each class; [] for depth.
    """

    kind: str
    layer: str
    scores: dict[str, float]
    held_out: float = float("nan")
    setting: str = ""
    iou: Sequence[float] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the line as the JSON file has it, null for nan."""
        numbers = {"held_out": _or_null(self.held_out), "iou": [_or_null(value) for value in self.iou]}
        found = {name: _or_null(value) for name, value in self.scores.items()}
        return {**self._asdict(), **numbers, "scores": found}


def dense_probe(
    path: str | Path,
    images: str,
    *,
    kinds: Sequence[str] = KINDS[:1],
    test: str | None = None,
    count: int = 20_000,
    layers: Sequence[str] = (),
    legend: str = "",
    depth_unit: float = MILLIMETRE,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> list[DenseLine]:
    """Probe a checkpoint for labels of pixels, log a table, and draw predictions.

    Images and masks are resized to the image size of the checkpoint, as a whole to evaluate and choose, and
    augmented to train; the scores count pixels of that size.

    Args:
      path, step, settings: see `train.runs.load_run`.
      images: images with masks or depths, see `open_masks` and `open_depths`.
      kinds: some of KINDS.
      test: others to test on; None for the val or test split of `images`, or where it has none for a fifth.
      count: images at most, of training and of test data each.
      layers: names such as "block 12"; () for four, the last among them.
      legend: see `open_masks`. depth_unit: see `open_depths`.
      out: a JSON file for the table, with a picture beside it, or None.
      log: prints a line. progress: called with the number of images done.

    Returns:
      [DenseLine], baselines included.

    Raises:
      UserError: no checkpoint, an unknown kind or layer, no masks, or masks that cannot be used.
    """
    check_kinds(kinds)
    loaded, stage = open_backbone(path, step, settings=settings)
    if out and jax.process_index() == 0:
        check_output(out, "--out=", is_result=_is_table)
    features = PatchFeatures(stage, choose_layers(stage.layers, tuple(layers)))
    for line in (f"{loaded.path}: {', '.join(features.layers[:-1])}", *stage.notes):
        log(line)
    report = _Report(loaded, features, log, progress, Path(out) if out else None)
    if {*kinds} & {"segmentation", "knn_segmentation"}:
        report.segmentation(open_segmentation(images, test, count, legend=legend), kinds)
    if "depth" in kinds:
        report.depth(open_depth(images, test, count, unit=depth_unit))
    report.write()
    return report.lines


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise UserError if a kind is none of KINDS, or there is none."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        seen = f"no dense probe '{unknown[0]}'" if unknown else "no dense probe given"
        raise UserError(f"{seen}; choose from: {', '.join(KINDS)}")


def are_dense(kinds: Sequence[str]) -> bool:
    """Return whether probes are of pixels; raise UserError if only some are."""
    dense = [kind for kind in kinds if kind in KINDS]
    if dense and len(dense) < len(kinds):
        others = [kind for kind in kinds if kind not in KINDS]
        raise UserError(
            f"{', '.join(dense)} need images with masks and {', '.join(others)} labelled images: "
            "type two commands"
        )
    return bool(dense)


class _Report:
    """Runs probes and logs their tables.

    lines: of all probes so far.
    """

    def __init__(
        self,
        loaded: LoadedRun,
        features: PatchFeatures,
        log: Callable[[str], None],
        progress: Callable[[int], None] | None,
        out: Path | None,
    ):
        self._loaded, self._features, self._log, self._progress = loaded, features, log, progress
        self._out = out
        self.lines: list[DenseLine] = []
        self._classes: tuple[str, ...] = ()

    def segmentation(self, material: DenseMaterial, kinds: Sequence[str]) -> None:
        """Probe for classes of pixels."""
        self._begin(material)
        self._classes = material.images.train.class_names
        layers = self._features.layers
        if "segmentation" in kinds:
            best = self._linear("segmentation", material)
            layers = tuple(dict.fromkeys((best, *layers[-2:])))
        if "knn_segmentation" in kinds:
            patches = knn.collect(self._features, material, layers, progress=self._progress)
            found = knn.score_neighbors(self._features, material, patches)
            settings = [f"{knn.NEIGHBORS[line.rate]} neighbours" for line in found]
            self._add("knn_segmentation", found, settings)

    def depth(self, material: DenseMaterial) -> None:
        """Probe for depths."""
        self._begin(material)
        self._linear("depth", material)

    def write(self) -> None:
        """Write the table as JSON."""
        if self._out is not None and jax.process_index() == 0:
            rows = [line.to_json() for line in self.lines]
            content = {"checkpoint": str(self._loaded.path), "classes": [*self._classes], "dense": rows}
            write_json(self._out, content)
            self._log(f"table: {self._out}")

    def _begin(self, material: DenseMaterial) -> None:
        compare_inputs(self._loaded, material.images.train, material.images.test)
        self._log(material.images.describe())

    def _linear(self, kind: str, material: DenseMaterial) -> str:
        """Train, test and log linear heads -> the best layer of the backbone."""
        steps = linear.number_of_steps(len(material.images.fit), self._features.batch_size)
        epochs = steps * self._features.batch_size / len(material.images.fit)
        self._log(
            f"{kind}: linear heads on frozen features, {steps:,} steps of {self._features.batch_size} "
            f"images, {epochs:.0f} epochs"
        )
        probe = linear.train(self._features, material, steps, progress=self._progress)
        found, constant = linear.score_layers(self._features, material, probe)
        self._add(kind, found, [f"learning rate {RATES[line.rate]:g}" for line in found])
        self.lines.append(DenseLine(kind, material.baseline, constant))
        self._log(_row(self.lines[-1], ""))
        best = max((line for line in found if line.layer != COLORS), key=lambda line: line.held_out)
        if isinstance(material.task, SegmentationTask):
            for text in _class_table(self._classes, best):
                self._log(text)
        if self._out is not None:
            self._draw(kind, material, probe, best)
        return best.layer

    def _add(self, kind: str, found: list[LayerScores], settings: list[str]) -> None:
        """Log the lines of one kind, and keep them."""
        probed = [line for line in found if line.layer != COLORS]
        best = max(probed, key=lambda line: line.held_out).layer
        for line, setting in zip(found, settings, strict=True):
            iou = [] if kind == "depth" else scores(line.counts).iou.tolist()
            self.lines.append(DenseLine(kind, line.layer, line.scores, line.held_out, setting, iou))
            mark = "  <- best on the images to choose by" if line.layer == best else ""
            self._log(_row(self.lines[-1], mark))

    def _draw(self, kind: str, material: DenseMaterial, probe: LinearProbe, best: LayerScores) -> None:
        """Write a picture of the first test images: image, truth and prediction."""
        images, size = material.images, self._features.size
        assert self._out is not None
        path = self._out.parent / "pictures" / f"{kind}.png"
        records = images.tested[:PICTURES]
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in self._features.stream(self._features.evaluation(images.test, records)):
            x = batch.features[best.layer]
            predicted = probe.heads.predict(probe.states[best.layer], x, size, best.rate)
            rows += zip(np.asarray(batch.mask), np.asarray(predicted), strict=True)
        if jax.process_index():
            return
        pixels = [_resized(images.test.read(int(record)).image, size) for record in records]
        triples = [(image, *row) for image, row in zip(pixels, rows, strict=False)]  # rows end with padding
        caption = f"{best.layer}: " + ", ".join(
            f"{name} {_value(name, x)}" for name, x in best.scores.items()
        )
        if isinstance(material.task, DepthTask):
            depths = [DepthPicture(image, truth * STEP, guess) for image, truth, guess in triples]
            draw_depths(path, depths, material.task.largest, caption)
        else:
            draw_segmentations(
                path, [LabelledPicture(*triple) for triple in triples], self._classes, caption
            )
        self._log(f"picture: {path} (image, truth, prediction of {best.layer})")


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return fit(image, np.zeros(image.shape[:2], np.int32), size)[0]


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _row(line: DenseLine, mark: str) -> str:
    values = "  ".join(f"{name} {_value(name, value):>7}" for name, value in line.scores.items())
    return f"{line.kind:>16}  {line.layer:<16}  {values}  {line.setting}{mark}".rstrip()


def _value(name: str, value: float) -> str:
    return f"{value:.3f}" if name in LOWER_IS_BETTER else f"{value:.2%}"


def _class_table(names: tuple[str, ...], best: LayerScores) -> Iterator[str]:
    """Yield a line for each class, or a count of them where there are many."""
    found = scores(best.counts)
    present = [k for k in range(len(names)) if not np.isnan(found.iou[k])]
    width = max(len(names[k]) for k in present) if present else 0
    yield f"IoU of the classes, {best.layer}; share of the pixels of the test images"
    for k in sorted(present, key=lambda k: -found.frequencies[k])[:MOST_CLASSES]:
        yield f"  {names[k]:<{width}}  {found.iou[k]:>7.2%}  {found.frequencies[k]:>7.2%}"
    if len(present) > MOST_CLASSES:
        yield f"  {len(present) - MOST_CLASSES:,} rarer classes are in the table of --out"
    absent = len(names) - len(present)
    if absent:
        yield f"  {absent:,} of {len(names):,} classes are neither in the test images nor predicted"


def _is_table(path: Path) -> bool:
    """Return whether `dense_probe` wrote a file."""
    try:
        return {"checkpoint", "dense"} <= read_json(path, dict, "a table of dense probes").keys()
    except UserError:
        return False
