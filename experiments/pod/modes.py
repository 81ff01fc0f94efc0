"""The modes in which a run is stopped or killed."""

from typing import NamedTuple

STEPS, EVALUATED, DUE = 48, 8, 3  # of a run; between evaluations; between checkpoints that are due
COUNTS = (2, 4)
SENDERS = ("one", "all at once", "all 0.03 to 0.2 s apart")
COMPILING, TRAINING, SAVING, EVALUATING = MOMENTS = (
    "compiling",
    "training",
    "training, a checkpoint due",
    "evaluating",
)


class Mode(NamedTuple):
    """The number of processes, who receives SIGTERM and when; without a moment, one receives SIGKILL."""

    count: int
    sender: str = ""
    moment: str = ""

    @property
    def name(self) -> str:
        """Return its name in the table."""
        kind = f"SIGTERM to {self.sender}, {self.moment}" if self.moment else "SIGKILL of one"
        return f"{self.count} processes: {kind}"

    def steps(self, start: int, last: bool) -> list[int]:
        """Return the steps after which its signal may be sent, in a run that resumes at a step.

        last: the run is not stopped again.
        """
        later = range(start + 1, STEPS - 2)
        evaluated = [step for step in later if step % EVALUATED == 0][:1]
        between = [step for step in later if 0 < step % EVALUATED < EVALUATED - 1][:3]
        if self.moment == SAVING:
            return [step for step in later if step % DUE == 0 and step % EVALUATED][:1]
        if self.moment == EVALUATING:
            return [STEPS] if last else evaluated
        return between if self.moment else between + len(between) * evaluated


def all_modes() -> list[Mode]:
    """Return all modes, in the order of the table."""
    return [
        Mode(count, *words)
        for count in COUNTS
        for words in [*((sender, moment) for moment in MOMENTS for sender in SENDERS), ()]
    ]
