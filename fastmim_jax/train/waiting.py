"""The time of steps, and the share of it in which the devices wait for data."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

Clock = Callable[[], float]
SHARE_WORTH_A_LINE = 0.1  # of the time, spent waiting for data


class StepTime(NamedTuple):
    """The time of a step.

    Attributes:
      seconds: from the end of the step before it, or of whatever came between, to its own end.
      waited: seconds of them in which the devices had nothing to do, because the batch was not there yet.
      first: whether it is the first of a start or a stage, which has no step before it.
    """

    seconds: float
    waited: float
    first: bool


class StepTimer:
    """Time steps that are dispatched before the last one has ended.

    A thread notes when the devices have finished a step, so that the loop never waits for a time. Call, for
    every step: `ask`, `have`, `dispatched`; and later, in the same order, `finished`.

    Args:
      clock: returns seconds.
      executor: runs the waiting; None for a thread of its own.
    """

    def __init__(self, clock: Clock = time.monotonic, executor: Executor | None = None):
        self._clock = clock
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="step-time")
        self._steps: deque[tuple[float, float, Future[float]]] = deque()
        self._asked = self._had = 0.0
        self._end: float | None = None  # of the last step

    def start(self) -> None:
        """Begin a stage: the next step has none before it."""
        self._end = None

    def ask(self) -> None:
        """Note that the loop asks for a batch."""
        self._asked = self._clock()

    def have(self) -> None:
        """Note that the batch is on its way to the devices."""
        self._had = self._clock()

    def dispatched(self, outputs: Any) -> None:
        """Note a step with the batch of the last `have`; outputs: arrays that it computes."""
        end = self._executor.submit(self._wait, outputs)
        self._steps.append((self._asked, self._had, end))

    def finished(self) -> StepTime:
        """Return the time of the oldest dispatched step."""
        asked, had, end = self._steps.popleft()
        before, self._end = self._end, end.result()
        if before is None:
            return StepTime(self._end - had, 0.0, first=True)
        return StepTime(self._end - before, max(0.0, had - max(asked, before)), first=False)

    def resume(self) -> None:
        """Leave out of the next step what the loop did since the last one had ended."""
        if self._end is not None:
            self._end = self._clock()

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=False)

    def _wait(self, outputs: Any) -> float:
        jax.block_until_ready(outputs)
        return self._clock()


class StepRates:
    """Sums over steps, and rates per second."""

    def __init__(self):
        self.seconds, self.waited, self._steps, self._images = 0.0, 0.0, 0, 0

    def add(self, step: StepTime, images: int) -> None:
        """Add a step of a batch of so many images."""
        self.seconds, self.waited = self.seconds + step.seconds, self.waited + step.waited
        self._steps, self._images = self._steps + 1, self._images + images

    @property
    def wait_share(self) -> float:
        """Share of the time in which the devices waited for data."""
        return self.waited / max(self.seconds, 1e-9)

    def values(self) -> dict[str, float]:
        """Return the metrics "images_per_second", "seconds_per_step" and "data_wait_share"."""
        return {
            "images_per_second": self._images / max(self.seconds, 1e-9),
            "seconds_per_step": self.seconds / max(self._steps, 1),
            "data_wait_share": self.wait_share,
        }


def describe_waiting(share: float, advice: str) -> str:
    """Return a sentence on the waiting for data: its share, and the advice where it matters."""
    seen = f"the devices waited for data {share:.1%} of the time"
    return f"{seen}: {advice}" if share > SHARE_WORTH_A_LINE else seen
