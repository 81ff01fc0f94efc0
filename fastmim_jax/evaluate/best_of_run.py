"""Evaluate a run with labels at intervals, and keep its best checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.run_folder import BEST
from fastmim_jax.train.checkpoint import describe_damage
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.remote.first_process import open_checkpoints
from fastmim_jax.train.state import TrainState

AnyResult = TypeVar("AnyResult")  # of an evaluation


class BestOfRun(Generic[AnyResult]):
    """Evaluate a run at intervals and keep the checkpoint of the best evaluation in best/.

    The history of best evaluations is stored with that checkpoint, so that it survives an interruption; the
    run may resume from an older checkpoint than the one in best/. A subclass measures, scores and reports.
    """

    score_name: ClassVar[str]  # of the score to maximise, in metrics and checkpoints

    def __init__(
        self,
        stage: Any,
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

    def measure(self, variables: dict[str, Any]) -> AnyResult:
        """Evaluate variables, laid out as those of the stage."""
        raise NotImplementedError

    def score(self, result: AnyResult) -> float:
        """Return the score of an evaluation: larger is better."""
        raise NotImplementedError

    def metrics(self, result: AnyResult) -> dict[str, float]:
        """Return the metrics of an evaluation, the score among them."""
        raise NotImplementedError

    def draw(self, step: int, result: AnyResult) -> dict[str, Path]:
        """Draw the best evaluation so far, and return {name: path} of its pictures."""
        return {}

    def write_report(self, step: int, result: AnyResult) -> list[str]:
        """Write the report of the best checkpoint, and return it as lines."""
        raise NotImplementedError

    def hook(self) -> Hook:
        """Return a Hook that evaluates every `config.run.eval_epochs`, and after the last step."""
        plan, epochs = self._stage.plan, self._stage.config.run.eval_epochs
        every = max(1, round(epochs * plan.steps_per_epoch)) if epochs else plan.total_steps
        return Hook(every, self.evaluate, self.ended)

    def ended(self, step: int) -> bool:
        """Return whether the score has not risen for `config.run.patience_epochs` before a step."""
        plan, epochs = self._stage.plan, self._stage.config.run.patience_epochs
        if not epochs or self._best_step is None or step == plan.total_steps:
            return False
        return step - self._best_step >= max(1, round(epochs * plan.steps_per_epoch))

    def evaluate(self, step: int, state: TrainState) -> dict[str, float | Path]:
        """Evaluate a step, save and draw it if it is the best; return its metrics and pictures."""
        pictures: dict[str, Path] = {}
        result = self.measure(state.eval_variables())
        score, history = self.score(result), self.history(step)
        best = history[-1][1] if history else None
        if best is None or score > best:
            history = [*history, [step, score]]
            self._best_step = step
            classes = list(self._stage.classes)
            position = {self.score_name: score, "history": history, "classes": classes}
            self._checkpoints.save(step, state, position, items=("params",))
            if jax.process_index() == 0:
                pictures = self.draw(step, result)
        elif self.ended(step):
            self._log(
                f"early stopping after step {step:,}: the best evaluation was after step "
                f"{self._best_step:,} (config.run.patience_epochs)"
            )
        for failed in self._checkpoints.take_failures():
            self._log(
                f"the best checkpoint, of step {failed.step:,}, could not be written ({failed.reason})"
            )
        return {**self.metrics(result), f"best_{self.score_name}": max(score, best or 0.0), **pictures}

    def history(self, step: int) -> list[list]:
        """Return [[step, score]] of each evaluation before a step that was the best so far, in order."""
        latest = self._checkpoints.latest()
        history = [] if latest is None else self._checkpoints.position(latest)["history"]
        return [[at, score] for at, score in history if at < step]

    def best(self) -> tuple[int, AnyResult]:
        """Return the step of the best checkpoint and its evaluation.

        Raises:
          UserError: the run has not been evaluated.
        """
        step = self._checkpoints.latest()
        if step is None:
            raise UserError(f"{self._workdir / BEST} holds no checkpoint: train until the first evaluation")
        state = self._checkpoints.restore_params(step, self._stage.abstract)
        return step, self.measure(state.eval_variables())

    def report(self) -> list[str]:
        """Evaluate the best checkpoint, write its report, and return it as lines."""
        return self.write_report(*self.best())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._checkpoints.close()
