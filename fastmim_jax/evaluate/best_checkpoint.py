"""Evaluate a run of fine-tuning at intervals, and keep the checkpoint of the best accuracy."""

from pathlib import Path
from typing import Any

from fastmim_jax.evaluate.best_of_run import BestOfRun
from fastmim_jax.evaluate.classify import Predictions, classify
from fastmim_jax.evaluate.report import draw_evaluation, write_report


class BestCheckpoint(BestOfRun[Predictions]):
    """The best checkpoint of a run of fine-tuning, by its top-1 accuracy; metrics are shares."""

    score_name = "top1"

    def measure(self, variables: dict[str, Any]) -> Predictions:
        """Classify the evaluation images."""
        return classify(self._stage, variables, self._source)

    def score(self, result: Predictions) -> float:
        """Return the top-1 accuracy."""
        return result.top1

    def metrics(self, result: Predictions) -> dict[str, float]:
        """Return {"top1", "top5", "eval_loss"}: shares, and the mean cross-entropy."""
        loss = float(result.loss.mean(dtype="float64"))
        return {"top1": result.top1, "top5": result.top5, "eval_loss": loss}

    def draw(self, step: int, result: Predictions) -> dict[str, Path]:
        """See `report.draw_evaluation`."""
        return draw_evaluation(step, result, list(self._stage.classes), self._workdir)

    def write_report(self, step: int, result: Predictions) -> list[str]:
        """See `report.write_report`."""
        return write_report(step, result, self._source, self._stage.classes, self._workdir)
