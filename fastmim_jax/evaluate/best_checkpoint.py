"""Evaluate a fine-tuning run at intervals, and keep its best checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.classify import Predictions, classify
from fastmim_jax.evaluate.report import draw_evaluation, write_report
from fastmim_jax.run_folder import BEST
from fastmim_jax.train.checkpoint import describe_damage
from fastmim_jax.train.finetune import FinetuneStage
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.remote.first_process import open_checkpoints
from fastmim_jax.train.state import TrainState


class BestCheckpoint:
    """Evaluate a run at intervals and keep the checkpoint of the best evaluation in best/.

    The history of best evaluations is stored with that checkpoint, so that it survives an interruption; the
    run may resume from an older checkpoint than the one in best/.
    """

    def __init__(
        self,
        stage: FinetuneStage,
        source: Any,
        workdir: str | Path,
        log: Callable[[str], None] = print,
    ):
        self._stage, self._source, self._workdir = stage, source, Path(workdir)
        self._log = log
        self._checkpoints = open_checkpoints(
            self._workdir / BEST, keep=1, verify=stage.config.run.verify_checkpoints
        )
        found = self._checkpoints.find_whole()
        for line in describe_damage(self._checkpoints.directory, found):
            log(line)
        self._checkpoints.set_aside(found.damaged)
        self._best_step = found.step

    def hook(self) -> Hook:
        """Return a Hook that evaluates every `config.run.eval_epochs`, and after the last step."""
        plan, epochs = self._stage.plan, self._stage.config.run.eval_epochs
        every = max(1, round(epochs * plan.steps_per_epoch)) if epochs else plan.total_steps
        return Hook(every, self.evaluate, self.ended)

    def ended(self, step: int) -> bool:
        """Return whether the accuracy has not risen for `config.run.patience_epochs` before a step."""
        plan, epochs = self._stage.plan, self._stage.config.run.patience_epochs
        if not epochs or self._best_step is None or step == plan.total_steps:
            return False
        return step - self._best_step >= max(1, round(epochs * plan.steps_per_epoch))

    def evaluate(self, step: int, state: TrainState) -> dict[str, float | Path]:
        """Return {"top1", "top5", "eval_loss", "best_top1"}: shares, and the mean cross-entropy.

        The best evaluation so far has pictures too, see `draw_evaluation`.
        """
        pictures: dict[str, Path] = {}
        predictions = classify(self._stage, state.eval_variables(), self._source)
        history = self.history(step)
        best = history[-1][1] if history else None
        if best is None or predictions.top1 > best:
            history = [*history, [step, predictions.top1]]
            self._best_step = step
            classes = list(self._stage.classes)
            position = {"top1": predictions.top1, "history": history, "classes": classes}
            self._checkpoints.save(step, state, position, items=("params",))
            if jax.process_index() == 0:
                pictures = draw_evaluation(step, predictions, classes, self._workdir)
        elif self.ended(step):
            self._log(
                f"early stopping after step {step:,}: the best evaluation was after step "
                f"{self._best_step:,} (config.run.patience_epochs)"
            )
        for failed in self._checkpoints.take_failures():
            self._log(
                f"the best checkpoint, of step {failed.step:,}, could not be written ({failed.reason})"
            )
        return {
            "top1": predictions.top1,
            "top5": predictions.top5,
            "eval_loss": float(predictions.loss.mean(dtype="float64")),
            "best_top1": max(predictions.top1, best or 0.0),
            **pictures,
        }

    def history(self, step: int) -> list[list]:
        """Return [[step, top-1]] of each evaluation before a step that was the best so far, in order."""
        latest = self._checkpoints.latest()
        history = [] if latest is None else self._checkpoints.position(latest)["history"]
        return [[at, top1] for at, top1 in history if at < step]

    def best(self) -> tuple[int, Predictions]:
        """Return the step of the best checkpoint and its predictions.

        Raises:
          UserError: the run has not been evaluated.
        """
        step = self._checkpoints.latest()
        if step is None:
            raise UserError(f"{self._workdir / BEST} holds no checkpoint: train until the first evaluation")
        state = self._checkpoints.restore_params(step, self._stage.abstract)
        return step, classify(self._stage, state.eval_variables(), self._source)

    def report(self) -> list[str]:
        """Evaluate the best checkpoint, write its report, and return it as lines; see `write_report`."""
        step, predictions = self.best()
        return write_report(step, predictions, self._source, self._stage.classes, self._workdir)

    def __enter__(self) -> "BestCheckpoint":
        return self

    def __exit__(self, *_: Any) -> None:
        self._checkpoints.close()
