"""Several real processes of one run on this machine: they stop, start and end together."""

import random
import shutil
import signal
import socket
import time
from collections.abc import Callable

from case import Case, Run

TERM, KILL = signal.SIGTERM, signal.SIGKILL
TIMEOUT = 10  # seconds of silence after which a process counts as dead


def _start(case: Case, count: int, own: dict[int, list[str]] | None = None, every: int = 1000) -> list[Run]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    case.tolerance = 1e-5  # the sums over a batch have another order
    flags = [
        f"--coordinator=127.0.0.1:{port}",
        f"--processes={count}",
        f"--config.run.checkpoint_every={every}",
    ]
    flags += [f"--config.run.peer_timeout_seconds={TIMEOUT}", "--config.run.picture_every=0"]
    return [
        case.start(*flags, f"--process={number}", *(own or {}).get(number, [])) for number in range(count)
    ]


def stopped(to: str, count: int = 2, at: str = "training", every: int = 1000) -> Callable[[Case], None]:
    """Return a case with SIGTERM to one, to all at once, or to all 0.03 to 0.2 s apart."""

    def run(case: Case) -> None:
        chance = random.Random(case.workdir.parent.name)
        runs = _start(case, count, every=every)
        step = chance.randrange(3, 18) if at == "training" else 19
        if at == "compiling":
            case.until(runs[0], lambda: "masked blocks" in runs[0].output)
        else:
            case.until(runs[0], lambda: case.step() >= step)
        for number in [chance.randrange(count)] if to == "one" else chance.sample(range(count), count):
            runs[number].send(TERM)
            time.sleep(chance.uniform(0.03, 0.2) if to == "all apart" else 0)
        early = (-TERM,) if at == "compiling" else ()
        for one in runs:
            case.end(one, (143, *early), seconds=60)
        if at != "compiling" and case.saved() != case.step():
            case.problem(f"step {case.saved()} was saved, {case.step()} logged")
        case.resumes(lost_at_most=0)

    return run


def killed(number: int) -> Callable[[Case], None]:
    """Return a case with SIGKILL of one of two processes: the other ends with a sentence that names it."""

    def run(case: Case) -> None:
        runs = _start(case, 2, every=5)
        case.until(runs[0], lambda: case.step() >= 12)
        runs[number].send(KILL)
        runs[number].wait(30)
        case.end(runs[1 - number], (1,), TIMEOUT + 5, said=f"process {number} on")
        case.resumes(lost_at_most=10)

    return run


def differs(own: Callable[[Case], list[str]], said: str) -> Callable[[Case], None]:
    """Return a case in which process 1 was started otherwise: both end in a sentence at the start."""

    def run(case: Case) -> None:
        runs = _start(case, 2, {1: own(case)})
        for one in runs:
            case.end(one, (2,), seconds=60, said=said)
        if case.step():
            case.problem("steps were computed")

    return run


def _one_image_less(case: Case) -> list[str]:
    fewer = case.folder / "fewer"
    shutil.copytree(case.images, fewer)
    (fewer / "000.png").unlink()
    return [f"--config.data.path={fewer}"]


def _other_content(case: Case) -> list[str]:
    other = case.folder / "other_content"
    shutil.copytree(case.images, other)
    shutil.copy(other / "001.png", other / "000.png")
    return [f"--config.data.path={other}"]


ROWS = {
    "2 processes: SIGTERM to one": stopped("one"),
    "2 processes: SIGTERM to one, checkpoints every 5": stopped("one", every=5),
    "2 processes: SIGTERM to all at once": stopped("all"),
    "2 processes: SIGTERM to all, 0.03 to 0.2 s apart": stopped("all apart"),
    "2 processes: SIGTERM to one before an evaluation": stopped("one", at="evaluating"),
    "2 processes: SIGTERM to one while compiling": stopped("one", at="compiling"),
    "4 processes: SIGTERM to one": stopped("one", count=4),
    "2 processes: SIGKILL of process 1": killed(1),
    "2 processes: SIGKILL of process 0": killed(0),
    "2 processes: 69 of 70 images on one": differs(_one_image_less, "reads 69 records"),
    "2 processes: an image with other content on one": differs(_other_content, "reads other content"),
    "2 processes: another config": differs(lambda case: ["--config.optimizer.base_lr=0.5"], "base_lr=0.5"),
    "2 processes: another work directory": differs(
        lambda case: [f"--workdir={case.folder / 'other'}"], "does not see"
    ),
    "2 processes: no data on one": differs(
        lambda case: [f"--config.data.path={case.folder / 'none'}"], "does not exist"
    ),
}
