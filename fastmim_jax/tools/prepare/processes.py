"""Run tasks in worker processes that end with their parent, whatever ends it."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from fastmim_jax.data.decoder_messages import name_messages
from fastmim_jax.data.workers import init_worker, start_shielded
from fastmim_jax.errors import UserError

_REPORT_EVERY = 16  # records per progress message
_SECONDS_TO_EXIT = 10

Work = Callable[[Any, Callable[[int], None]], Any]  # of a task, and a function to report progress to


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: connection.Connection


def run_tasks(
    work: Work, tasks: Sequence[Any], workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, result) of every task, in order of completion.

    Args:
      work: picklable; an OSError or UserError that it raises is raised here.
      tasks: picklable.
      workers: processes; with 1, or a single task, this process does the work.
      progress: called with the number of further items that were done.

    Raises:
      UserError: a worker process died.
      RuntimeError: `work` raised another exception; the message is its traceback.
    """
    if min(workers, len(tasks)) <= 1:
        name_messages()
        for task in tasks:
            yield task, work(task, progress)
        return
    team = start_shielded(lambda: _start(work, min(workers, len(tasks))))
    try:
        yield from _distribute(team.result(), tasks, progress)
    finally:
        for worker in team.result():  # an interrupt may have come before all had started
            worker.process.terminate()
        for worker in team.result():
            worker.process.join(_SECONDS_TO_EXIT)
            worker.pipe.close()


def _distribute(
    team: Sequence[_Worker], tasks: Sequence[Any], progress: Callable[[int], None]
) -> Iterator[tuple[Any, Any]]:
    """Send a task to each worker that is free, until all tasks are done."""
    waiting = list(reversed(tasks))
    busy = {}
    for worker in team:
        busy[worker.pipe] = waiting.pop()
        worker.pipe.send(busy[worker.pipe])
    while busy:
        for pipe in connection.wait(list(busy)):
            assert isinstance(pipe, connection.Connection)
            kind, value = _receive(pipe)
            if kind == "progress":
                progress(value)
                continue
            task = busy.pop(pipe)
            if waiting:
                busy[pipe] = waiting.pop()
                pipe.send(busy[pipe])
            yield task, value


def _receive(pipe: connection.Connection) -> tuple[str, Any]:
    try:
        kind, value = pipe.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            "A worker process died; most often the machine ran out of memory: type --workers=N with fewer "
            "workers. What is finished stays, and the same command resumes."
        ) from None
    if kind == "error":
        raise value
    return kind, value


def _start(work: Work, count: int) -> list[_Worker]:
    """Start processes; they import nothing of JAX, which would take seconds and memory in each."""
    context = get_context("spawn")
    team = []
    for _ in range(count):
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the death of the process ends the pipe
        team.append(_Worker(process, mine))
    return team


def _serve(work: Work, pipe: connection.Connection) -> None:
    """Do the tasks that arrive, until the parent closes the pipe or dies; runs in a worker process."""
    init_worker()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            _do(work, pipe.recv(), pipe)


def _do(work: Work, task: Any, pipe: connection.Connection) -> None:
    report = _Report(pipe)
    try:
        result = work(task, report.add)
        report.send()
        pipe.send(("result", result))
    except (OSError, UserError) as error:
        pipe.send(("error", error))
    except Exception:
        pipe.send(("error", RuntimeError(traceback.format_exc())))


class _Report:
    """Progress messages, a few items at a time."""

    def __init__(self, pipe: connection.Connection):
        self._pipe, self._items = pipe, 0

    def add(self, items: int) -> None:
        self._items += items
        if self._items >= _REPORT_EVERY:
            self.send()

    def send(self) -> None:
        self._pipe.send(("progress", self._items))
        self._items = 0
