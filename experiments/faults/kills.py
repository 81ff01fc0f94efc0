"""SIGKILL at random moments: of the main process, in a save, of a data worker, of the whole group."""

import os
import random
import signal
import time

from case import EVERY, SHARED_MEMORY, STEPS, Case, kill, workers


def main_process(case: Case, seed: int) -> None:
    """SIGKILL of the main process at a random step, with 2 workers."""
    run = _at_random_step(case, seed)
    kill(run.pid)
    _ends_and_resumes(case, run)


def in_a_save(case: Case, seed: int) -> None:
    """SIGKILL of the main process while a checkpoint is being written."""
    chance = random.Random(seed)
    run = _at_random_step(case, seed)
    case.until(run, lambda: any((case.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")))
    time.sleep(chance.uniform(0, 0.2))
    kill(run.pid)
    _ends_and_resumes(case, run)


def worker(case: Case, seed: int) -> None:
    """SIGKILL of one data worker: the run goes on, or ends in a sentence and resumes."""
    run = _at_random_step(case, seed)
    found = workers(run.pid)
    if not found:
        case.problem("no worker was found")
    for pid in found[:1]:
        kill(pid)
    output = case.end(run, (0, 2))
    if case.outcome.codes == [0]:
        case.outcome.said = next((line for line in output.splitlines() if "data worker" in line), "")
        case.outcome.lost = 0
        case.equal()
    else:
        case.outcome.said = output.splitlines()[-1]
        case.resumes()


def group(case: Case, seed: int) -> None:
    """SIGKILL of the whole process group: nothing is left in shared memory after the next start."""
    before = set(os.listdir(SHARED_MEMORY))
    run = _at_random_step(case, seed)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(30)
    case.resumes(lost_at_most=2 * EVERY)
    left = {name for name in os.listdir(SHARED_MEMORY) if name not in before}
    if left:
        case.problem(f"{len(left)} entries left in /dev/shm, such as {min(left)}")


def _at_random_step(case, seed):
    step = random.Random(seed).randrange(6, STEPS - 15)
    run = case.start("--config.run.workers=2")
    case.until(run, lambda: case.step() >= step)
    return run


def _ends_and_resumes(case, run):
    run.wait(30)
    case.resumes(lost_at_most=2 * EVERY)


KILLS = {"main process": main_process, "in a save": in_a_save, "data worker": worker, "group": group}
ROWS = {f"kill: {name}": lambda case, f=function: f(case, 0) for name, function in KILLS.items()}
