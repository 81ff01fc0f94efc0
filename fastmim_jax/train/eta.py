"""The time that a run has left, estimated from its steps so far."""

from collections import deque
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from fastmim_jax.plan import StagePlan

RECENT_STEPS = 100  # whose mean is the time of a step


class StageWork(NamedTuple):
    """The steps of one stage of a run.

    first_step, last_step: the stage has the steps first_step + 1 to last_step.
    cost: of a step, in a unit that all stages share, such as pixels.
    """

    first_step: int
    last_step: int
    cost: float


def stage_work(plan: StagePlan) -> StageWork:
    """Return the steps of a stage; their cost is taken as proportional to the pixels of a batch."""
    height, width = plan.image_size
    return StageWork(plan.first_step, plan.last_step, float(plan.batch_size * height * width))


class _Event(NamedTuple):
    """Something that the loop does every `every` steps and after the last; seconds: of each time so far."""

    every: int
    seconds: tuple[float, ...]


class RemainingTime:
    """Estimate the remaining time of a run.

    It is the mean of recent steps, for the steps to come, in proportion to their cost; and what happens
    between steps (evaluations, pictures, checkpoints), as often as it will happen. Neither compilation nor
    the first step of a start counts.

    Args:
      stages: all of the run, in order.
    """

    def __init__(self, stages: Sequence[StageWork]):
        self._stages = stages
        self._rates: deque[float] = deque(maxlen=RECENT_STEPS)  # seconds per unit of cost
        self._stale = False  # the rates are of an earlier stage
        self._events: dict[Hashable, _Event] = {}

    def start_stage(self) -> None:
        """Scale the estimate by cost until the new stage has a time of its own."""
        self._stale = True

    def add_step(self, step: int, seconds: float) -> None:
        """Add the time of a step, of which all but the first of a start are to be added."""
        if self._stale:
            self._rates.clear()
            self._stale = False
        stage = next(stage for stage in self._stages if step <= stage.last_step)
        self._rates.append(seconds / stage.cost)

    def add_event(self, name: Hashable, every: int, seconds: float) -> None:
        """Add the time, without compilation, of something that happens every `every` steps."""
        before = self._events[name].seconds if name in self._events else ()
        self._events[name] = _Event(every, (*before, seconds)[-RECENT_STEPS:])

    def seconds(self, step: int) -> float | None:
        """Return the seconds that are left after a step; None before the first time of a step."""
        if not self._rates:
            return None
        rate = sum(self._rates) / len(self._rates)
        cost = sum(
            max(0, stage.last_step - max(stage.first_step, step)) * stage.cost for stage in self._stages
        )
        return rate * cost + sum(self._event_seconds(event, step) for event in self._events.values())

    def _event_seconds(self, event: _Event, step: int) -> float:
        """Return the seconds of an event in all steps to come.

        The first time is slow (imports, files read once), so it counts only until there is a second.
        """
        total = self._stages[-1].last_step
        times = total // event.every - step // event.every
        times += bool(total % event.every) and step < total
        later = event.seconds[1:] or event.seconds
        return times * sum(later) / len(later)
