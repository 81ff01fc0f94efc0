"""`fastmim probe` for every pixel: segmentation and depth from frozen features, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.data.masks.depths import MILLIMETRE, STEP
from fastmim_jax.draw.depths import DepthPicture, draw_depths
from fastmim_jax.draw.overlays import LabelledPicture, draw_segmentations
from fastmim_jax.errors import UserError, did_you_mean
from fastmim_jax.evaluate.backbone import open_backbone
from fastmim_jax.evaluate.dense_probes import knn, linear
from fastmim_jax.evaluate.dense_probes.heads import RATES
from fastmim_jax.evaluate.dense_probes.linear import LayerScores
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial, open_depth, open_segmentation
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS, PatchFeatures, choose_layers
from fastmim_jax.evaluate.dense_probes.sliding_windows import SlidingWindows
from fastmim_jax.evaluate.dense_probes.table import (
    KINDS,
    DenseLine,
    DenseTable,
    class_table,
    is_table,
    row,
    value_text,
)
from fastmim_jax.evaluate.dense_probes.tasks import DepthTask, SegmentationTask
from fastmim_jax.evaluate.dense_probes.whole_images import Evaluation, LinearProbe, WholeImages
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.evaluate.segmentation.scores import scores
from fastmim_jax.io import write_json
from fastmim_jax.paths import check_output
from fastmim_jax.train.runs import LoadedRun

EVAL_MODES = ("whole", "slide")
PICTURES = 6  # test images drawn
OPTIONS: dict[str, Any] = dict(  # of dense probes alone, with their defaults
    layers=(), legend="", depth_unit=MILLIMETRE, eval_mode=EVAL_MODES[0], eval_resize=None
)


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
    eval_mode: str = EVAL_MODES[0],
    eval_resize: int | None = None,
    step: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> DenseTable:
    """Probe a checkpoint for labels of pixels, log a table, and draw predictions.

    Images and masks are augmented to train, in crops of the image size of the checkpoint.

    Args:
      path, step, settings: see `train.runs.load_run`.
      images: images with masks or depths, see `open_masks` and `open_depths`.
      kinds: some of KINDS.
      test: others to test on; None for the val or test split of `images`, or where it has none for a fifth.
      count: images at most, of training and of test data each.
      layers: names such as "block 12"; () for four, the last among them.
      legend: see `open_masks`. depth_unit: see `open_depths`.
      eval_mode: "whole": images and masks are resized as a whole to the size of the crop, and pixels of
        that size are counted; "slide": windows of the crop over the image, as published, and pixels of the
        image are counted. k-NN segmentation takes whole images always.
      eval_resize: "slide": short side to which images are resized, in pixels; None: that of the crop.
      out: a JSON file for the table, with a picture beside it, or None.
      log: prints a line. progress: called with the number of images done.

    Returns:
      The table, baselines included.

    Raises:
      UserError: no checkpoint, an unknown kind, layer or mode, no masks, or masks that cannot be used.
    """
    check_kinds(kinds)
    check_eval_mode(eval_mode, eval_resize)
    loaded, stage = open_backbone(path, step, settings=settings)
    if out and jax.process_index() == 0:
        check_output(out, "--out=", is_result=is_table)
    features = PatchFeatures(stage, choose_layers(stage.layers, tuple(layers)))
    for line in (f"{loaded.path}: {', '.join(features.layers[:-1])}", *stage.notes):
        log(line)
    evaluation: Evaluation = WholeImages(features)
    if eval_mode == "slide":
        evaluation = SlidingWindows(features, eval_resize)
    report = _Report(loaded, features, evaluation, log, progress, Path(out) if out else None)
    if {*kinds} & {"segmentation", "knn_segmentation"}:
        report.segmentation(open_segmentation(images, test, count, legend=legend), kinds)
    if "depth" in kinds:
        report.depth(open_depth(images, test, count, unit=depth_unit))
    table = report.table()
    if out and jax.process_index() == 0:
        write_json(out, table.to_json())
        log(f"table: {out}")
    return table


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise UserError if a kind is none of KINDS, or there is none."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        seen = f"no dense probe '{unknown[0]}'" if unknown else "no dense probe given"
        raise UserError(f"{seen}; choose from: {', '.join(KINDS)}")


def check_given(
    images: Any, folds: int, typed: tuple[str, str] = ("type --images=DIR", "leave out --folds")
) -> None:
    """Raise UserError if there are no images, or folds; typed: what to type in either case."""
    if images is None or folds:
        raise UserError(
            "probes of pixels need a folder of images with masks or depths, without folds: "
            f"{typed[1] if folds else typed[0]}"
        )


def check_no_options(options: Mapping[str, Any]) -> None:
    """Raise UserError if probes of images are given OPTIONS of dense probes other than the defaults."""
    given = [name for name, default in OPTIONS.items() if options[name] != default]
    if given:
        raise UserError(f"--{given[0]} is for probes of pixels: leave it out, or type --kinds={KINDS[0]}")


def check_eval_mode(mode: str, resize: int | None) -> None:
    """Raise UserError for none of EVAL_MODES, or a short side to resize to without windows."""
    if mode not in EVAL_MODES:
        hint = did_you_mean(mode, EVAL_MODES)
        raise UserError(f"--eval_mode is '{mode}'; choose from: {', '.join(EVAL_MODES)}{hint}")
    if resize is not None and mode != "slide":
        raise UserError(
            f"--eval_resize is {resize}, but images are evaluated as a whole: leave it out, or type "
            "--eval_mode=slide"
        )


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
        evaluation: Evaluation,
        log: Callable[[str], None],
        progress: Callable[[int], None] | None,
        out: Path | None,
    ):
        self._loaded, self._features, self._evaluation = loaded, features, evaluation
        self._log, self._progress, self._out = log, progress, out
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
            self._log(f"knn_segmentation: evaluated on {WholeImages(self._features).describe()}")
            patches = knn.collect(self._features, material, layers, progress=self._progress)
            found = knn.score_neighbors(self._features, material, patches)
            settings = [f"{knn.NEIGHBORS[line.rate]} neighbours" for line in found]
            self._add("knn_segmentation", found, settings)

    def depth(self, material: DenseMaterial) -> None:
        """Probe for depths."""
        self._begin(material)
        self._linear("depth", material)

    def table(self) -> DenseTable:
        """Return the lines so far."""
        return DenseTable(str(self._loaded.path), self._evaluation.describe(), self.lines, self._classes)

    def _begin(self, material: DenseMaterial) -> None:
        compare_inputs(self._loaded, material.images.train, material.images.test)
        self._log(material.images.describe())

    def _linear(self, kind: str, material: DenseMaterial) -> str:
        """Train, test and log linear heads -> the best layer of the backbone."""
        steps = linear.number_of_steps(len(material.images.fit), self._features.batch_size)
        epochs = steps * self._features.batch_size / len(material.images.fit)
        self._log(
            f"{kind}: linear heads on frozen features, {steps:,} steps of {self._features.batch_size} "
            f"images, {epochs:.0f} epochs, evaluated on {self._evaluation.describe()}"
        )
        probe = linear.train(self._features, material, steps, progress=self._progress)
        found, constant = linear.score_layers(self._evaluation, material, probe)
        self._add(kind, found, [f"learning rate {RATES[line.rate]:g}" for line in found])
        self.lines.append(DenseLine(kind, material.baseline, constant))
        self._log(row(self.lines[-1]))
        best = max((line for line in found if line.layer != COLORS), key=lambda line: line.held_out)
        if isinstance(material.task, SegmentationTask):
            for text in class_table(self._classes, best):
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
            self._log(row(self.lines[-1], mark))

    def _draw(self, kind: str, material: DenseMaterial, probe: LinearProbe, best: LayerScores) -> None:
        """Write a picture of the first test images: image, truth and prediction."""
        images = material.images
        assert self._out is not None
        path = self._out.parent / "pictures" / f"{kind}.png"
        records = images.tested[:PICTURES]
        found = [*self._evaluation.predict(images.test, records, probe, best.layer, best.rate)]
        if jax.process_index():
            return
        caption = f"{best.layer}: " + ", ".join(
            f"{name} {value_text(name, x)}" for name, x in best.scores.items()
        )
        if isinstance(material.task, DepthTask):
            depths = [DepthPicture(image, truth * STEP, guess) for image, truth, guess in found]
            draw_depths(path, depths, material.task.largest, caption)
        else:
            draw_segmentations(path, [LabelledPicture(*row) for row in found], self._classes, caption)
        self._log(f"picture: {path} (image, truth, prediction of {best.layer})")
