"""Evaluate a run of segmentation at intervals, and keep the checkpoint of the best mIoU."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.draw.overlays import LabelledPicture, draw_segmentations
from fastmim_jax.evaluate.best_of_run import BestOfRun
from fastmim_jax.evaluate.segmentation.report import write_report
from fastmim_jax.evaluate.segmentation.scores import SegmentationScores, scores
from fastmim_jax.evaluate.segmentation.segment_images import (
    SegmentationResult,
    Segmented,
    evaluate_segmentation,
)
from fastmim_jax.train import sharding
from fastmim_jax.train.segmenter_stage import SegmenterStage


class Measured(NamedTuple):
    """An evaluation; pictures: of the first images of this process."""

    result: SegmentationResult
    scores: SegmentationScores
    pictures: list[LabelledPicture]


class BestSegmentation(BestOfRun[Measured]):
    """The best checkpoint of a run of segmentation, by its mIoU; metrics are shares."""

    score_name = "miou"

    @cached_property
    def _segmenter(self) -> SegmenterStage:
        return self._stage.segmenter()

    def measure(self, variables: dict[str, Any]) -> Measured:
        """Segment the evaluation images."""
        stage, pictures, most = self._segmenter, list[LabelledPicture](), self._stage.config.run.pictures

        def keep(found: Segmented) -> None:
            if len(pictures) < most:
                pictures.append(LabelledPicture(found.image.image, found.image.mask, found.labels))

        local = sharding.localize(variables, stage.mesh)
        result = evaluate_segmentation(stage, local, self._source, keep)
        return Measured(result, scores(result.confusion), pictures)

    def score(self, result: Measured) -> float:
        """Return the mIoU; 0 without any labelled pixel."""
        return 0.0 if math.isnan(result.scores.miou) else result.scores.miou

    def metrics(self, result: Measured) -> dict[str, float]:
        """Return {"miou", "pixel_accuracy", "mean_class_accuracy"}, those that are numbers."""
        found = result.scores
        values = {"pixel_accuracy": found.pixel_accuracy, "mean_class_accuracy": found.mean_class_accuracy}
        return {"miou": self.score(result), **{k: x for k, x in values.items() if not math.isnan(x)}}

    def draw(self, step: int, result: Measured) -> dict[str, Path]:
        """Draw the first images of this process with their true and predicted classes."""
        if not result.pictures:
            return {}
        path = self._workdir / "pictures" / f"segmentation_{step:07d}.png"
        caption = f"step {step:,}, mIoU {self.score(result):.2%}"
        return {"segmentation": draw_segmentations(path, result.pictures, self._stage.classes, caption)}

    def write_report(self, step: int, result: Measured) -> list[str]:
        """See `report.write_report`; with a picture of the first images."""
        lines = write_report(step, result.result, self._source, self._stage.classes, self._workdir)
        if result.pictures and jax.process_index() == 0:
            path = self._workdir / "pictures" / "segmentation.png"
            caption = f"best checkpoint, step {step:,}, mIoU {self.score(result):.2%}"
            draw_segmentations(path, result.pictures, self._stage.classes, caption)
            lines.append(f"pictures: {path}")
        return lines
