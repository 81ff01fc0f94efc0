"""The best checkpoint of a run, whatever is measured: saved, drawn, and remembered."""

from types import SimpleNamespace

import jax.numpy as jnp

from fastmim_jax.evaluate.best_of_run import BestOfRun
from fastmim_jax.train.state import TrainState

ZERO = jnp.zeros((), jnp.int32)
STATE = TrainState(ZERO, {"kernel": jnp.ones(2)}, {}, {}, ZERO, ZERO)


class Best(BestOfRun[float]):
    score_name = "height"
    measured = iter((0.2, 0.5, 0.4, 0.5))

    def measure(self, variables):
        return next(self.measured)

    def score(self, result):
        return result

    def metrics(self, result):
        return {"height": result}

    def draw(self, step, result):
        return {"picture": self._workdir / f"{step}.png"}


def test_only_a_better_evaluation_is_saved_and_drawn(tmp_path):
    run = SimpleNamespace(verify_checkpoints=False, eval_epochs=1.0, patience_epochs=0.0)
    plan = SimpleNamespace(steps_per_epoch=10, total_steps=40)
    stage = SimpleNamespace(config=SimpleNamespace(run=run), plan=plan, classes=("a", "b"))
    with Best(stage, None, tmp_path) as best:
        assert best.hook().every == 10
        found = [best.evaluate(step, STATE) for step in (10, 20, 30, 40)]
        assert [one["best_height"] for one in found] == [0.2, 0.5, 0.5, 0.5]
        assert ["picture" in one for one in found] == [True, True, False, False]
        assert best.history(40) == [[10, 0.2], [20, 0.5]]
