"""Read chunks of a stream ahead of their use, in their order: in threads, or in worker processes.

Worker processes send the numbers of chunks through pipes, and write rows to memory without a name: there
are no semaphores and no segments in /dev/shm that a killed run could leave behind.
"""

import contextlib
import functools
import logging
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Protocol

import grain
from absl import flags

from fastmim_jax.data.workers import init_worker, main_script_hidden, start_shielded
from fastmim_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_SECONDS_TO_START = 60
_SECONDS_TO_EXIT = 10
SENT_AHEAD = 2  # chunks that a worker has sent and this process has not taken

ReadChunk = Callable[[int], int]  # writes the rows of chunk n, and returns n


class ChunkReader(Protocol):
    """Reads chunks 0, 1, ... ahead, from its construction on."""

    def next(self) -> int:
        """Wait until the next chunk is written, and return its number."""

    def close(self) -> None:
        """End threads and processes."""


class ThreadReader:
    """Read chunks in threads of this process.

    Args:
      read: writes the rows of a chunk.
      chunks: number of chunks.
      threads: number of threads.
      ahead: chunks that are read before they are taken.
    """

    def __init__(self, read: ReadChunk, chunks: int, threads: int, ahead: int):
        self._numbers = _read_ahead(read, range(chunks), threads, ahead)
        self._first: Future | None = start_shielded(functools.partial(next, self._numbers))

    def next(self) -> int:
        """See `ChunkReader`."""
        if self._first is None:
            return next(self._numbers)
        number = self._first.result()  # after an interrupt here, the next call waits again
        self._first = None
        return number

    def close(self) -> None:
        """See `ChunkReader`."""
        if self._first is not None:
            with contextlib.suppress(TimeoutError):
                self._first.exception(timeout=_SECONDS_TO_START)
        self._numbers.close()


class WorkerReader:
    """Read chunks in processes: worker w of n reads w, w + n, w + 2 n, ...

    A worker that dies is replaced by one that begins with the first chunk that was not taken; the chunks
    are the same to the bit, whoever reads them.

    Args:
      read: writes the rows of a chunk to shared memory; picklable.
      chunks: number of chunks.
      workers: number of processes.
      threads: number of threads of each.
      max_restarts: dead workers that are replaced.
    """

    def __init__(self, read: ReadChunk, chunks: int, workers: int, threads: int, max_restarts: int):
        self._read, self._chunks, self._count, self._threads = read, chunks, workers, threads
        self._max_restarts, self._restarts_left = max_restarts, max_restarts
        self._next = 0
        self._workers = [self._start(number) for number in range(workers)]

    def next(self) -> int:
        """See `ChunkReader`.

        Raises:
          UserError: more workers died than may be replaced, or one cannot be started.
          Exception: the one that a worker raised.
        """
        if self._next == self._chunks:
            raise StopIteration
        while (message := self._receive()) is None:
            self._workers[self._next % self._count] = self._start(self._next)
        if isinstance(message, BaseException):
            raise message
        assert message == self._next, (message, self._next)
        self._next += 1
        return message

    def close(self) -> None:
        """See `ChunkReader`; workers hold nothing that has to be cleaned up, so that they are killed."""
        workers = []
        for future in self._workers:
            with contextlib.suppress(Exception):  # of a start that failed, or lasts too long
                workers.append(future.result(timeout=_SECONDS_TO_START))
                workers[-1].process.kill()
        for worker in workers:
            worker.process.join(_SECONDS_TO_EXIT)
            worker.pipe.close()

    def _start(self, first: int) -> Future:
        """Start a worker that begins with chunk `first`; in a thread, since the start takes a while."""
        numbers = range(first, self._chunks, self._count)
        args = self._read, numbers, self._threads
        return start_shielded(functools.partial(_start_worker, args))

    def _receive(self) -> Any:
        """Return the message of the worker whose turn it is; None if it has died and may be replaced."""
        worker = None
        try:
            worker = self._workers[self._next % self._count].result()
            message = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self._count_death(worker)
            return None
        with contextlib.suppress(ConnectionError):  # it has died since
            worker.pipe.send_bytes(b"")
        return message

    def _count_death(self, worker: "_Worker | None") -> None:
        """Print a line, or raise UserError once there were too many."""
        died = _describe_death(worker)
        if not self._restarts_left:
            raise UserError(
                f"{died}, after {self._max_restarts} that were replaced "
                f"(config.run.max_worker_restarts). {_advice(worker)}"
            )
        self._restarts_left -= 1
        left = f"{self._restarts_left} of {self._max_restarts} restarts left"
        text = f"{died}; another one reads its rows again ({left}). {_advice(worker)}"
        _LOG.warning(text, extra={"every_process": True})


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: connection.Connection


def _start_worker(args: tuple) -> _Worker:
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, *args), daemon=True)
    try:
        with main_script_hidden(args):
            process.start()
    except ConnectionError:
        mine.close()
        raise  # it has died while it started
    except OSError as error:
        raise UserError(
            f"a data worker cannot be started ({error}): type --config.run.workers=N with fewer workers"
        ) from error
    finally:
        theirs.close()  # so that the death of the process ends the pipe
    return _Worker(process, mine)


def _serve(pipe: connection.Connection, read: ReadChunk, numbers: range, threads: int) -> None:
    """Read chunks and send their numbers; the main function of a worker process."""
    init_worker()
    chunks, waiting = _read_ahead(read, numbers, threads, threads), 0
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has closed the pipe
        while (message := _next_message(chunks)) is not None:
            pipe.send(message)
            waiting += 1
            if waiting > SENT_AHEAD:
                pipe.recv_bytes()
                waiting -= 1
        for _ in range(waiting):  # a pipe that closes before may lose messages
            pipe.recv_bytes()


def _next_message(chunks: Iterator[int]) -> Any:
    """Return the number of the next chunk, the exception that it raised, or None at the end."""
    try:
        return next(chunks, None)
    except BaseException as error:
        error.add_note("In a data worker:\n" + traceback.format_exc())
        try:
            return pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(traceback.format_exc())


def _read_ahead(read: ReadChunk, numbers: range, threads: int, ahead: int) -> Any:
    """Return the Grain iterator of the chunks with these numbers, as they are read."""
    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which raises before they are parsed
        flags.FLAGS.mark_as_parsed()
    stream = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step).map(read)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


def _describe_death(worker: _Worker | None) -> str:
    """Return 'data worker 123 on HOST died with exit code -9 (SIGKILL)'."""
    code, host = _exit_code(worker), socket.gethostname()
    if worker is None or code is None:
        return f"a data worker on {host} died while it started"
    names = {-number: f" ({number.name})" for number in signal.Signals}
    return f"data worker {worker.process.pid} on {host} died with exit code {code}{names.get(code, '')}"


def _exit_code(worker: _Worker | None) -> int | None:
    if worker is None:
        return None
    worker.process.join(_SECONDS_TO_EXIT)
    return worker.process.exitcode


def _advice(worker: _Worker | None) -> str:
    if _exit_code(worker) in (None, -signal.SIGKILL):
        return "Most often the machine ran out of memory: type --config.run.workers=N with fewer workers"
    return "The lines that it printed may say why"
