"""Processes that prepare side by side and are timed one at a time, while all others are stopped."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

IDLE_GB = 2  # device memory of a worker that waits or has finished


class Worker:
    """A process of `ours.py` or `published.py`, in a process group of its own.

    Attributes:
      rank: its place in the order of priority.
      task: see `cases.Task`.
      request: ("need" or "ready", GB) while it waits for an answer, else None.
      gigabytes: device memory that it may occupy.
      active_seconds: time during which it was not stopped.
      missing: modes of the task without a result.
    """

    def __init__(self, rank, task, command, environment, events):
        self.rank, self.task = rank, task
        self.request, self.gigabytes, self.stopped = None, 0, False
        self.active_seconds, self.last_line = 0.0, ""
        self.missing = list(task.modes)
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events):
        for line in self._process.stdout:
            events.put((self, line.rstrip("\n")))
        events.put((self, None))

    def answer(self):
        """Grant the request."""
        self.gigabytes, self.request = self.request[1], None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; the end of its output says so

    def signal(self, number):
        """Send a signal to the process group."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # it has ended

    def wait(self):
        """Return the exit status."""
        return self._process.wait()


class Scheduler:
    """Starts workers in order of priority, answers their requests and hands on what they report.

    Args:
      tasks: [cases.Task] in order of priority.
      launch: task -> (command, environment).
      jobs: workers at a time.
      device_gb: memory of the device; the workers' requests together stay below.
      task_seconds: time limit of a worker, without the time in which it is stopped.
      deadline: of all, on `time.monotonic`.
      on_result: (task, {figure}) -> None.
      on_text: (file name, text) -> None.
      on_line: (task, line) -> None, for all other output.
    """

    def __init__(
        self, tasks, launch, *, jobs, device_gb, task_seconds, deadline, on_result, on_text, on_line
    ):
        self._pending = list(enumerate(tasks))
        self._launch, self._jobs, self._device_gb = launch, jobs, device_gb
        self._task_seconds, self._deadline = task_seconds, deadline
        self._on_result, self._on_text, self._on_line = on_result, on_text, on_line
        self._events, self._workers, self._alone = queue.Queue(), [], None

    def run(self):
        """Run all tasks, or as many as the time allows."""
        try:
            tick = time.monotonic()
            while self._pending or self._workers:
                now = time.monotonic()
                for worker in self._workers:
                    worker.active_seconds += 0 if worker.stopped else now - tick
                tick = now
                if now > self._deadline:
                    break
                self._start()
                self._handle_events()
                self._answer()
                self._end_slow()
        finally:
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
        for worker in self._workers:
            self._fail(worker.task, worker.missing, "not finished: the time of the whole run was over")
        for _, task in self._pending:
            self._fail(task, task.modes, "not started: the time of the whole run was over")

    def _start(self):
        while self._pending and len(self._workers) < self._jobs and self._alone is None:
            rank, task = self._pending.pop(0)
            command, environment = self._launch(task)
            self._workers.append(Worker(rank, task, command, environment, self._events))

    def _handle_events(self):
        try:
            worker, line = self._events.get(timeout=0.1)
        except queue.Empty:
            return
        if line is None:
            self._end(worker)
        elif line.startswith("@"):
            self._handle(worker, *line[1:].partition(" ")[::2])
        else:
            worker.last_line = line.strip() or worker.last_line
            self._on_line(worker.task, line)

    def _handle(self, worker, word, value):
        if word in ("need", "ready"):
            worker.request = (word, float(value))
        elif word in ("shared", "done"):
            worker.gigabytes = IDLE_GB if word == "done" else worker.gigabytes
            self._share(worker)
        elif word == "text":
            self._on_text(*json.loads(value))
        else:
            figures = {"flops": float(value)} if word == "flops" else json.loads(value)
            mode = figures.get("mode", worker.task.modes[0])
            if word == "result" and mode in worker.missing:
                worker.missing.remove(mode)
            self._on_result(worker.task, figures)

    def _answer(self):
        """Grant what fits: the machine alone before a share of it, then by priority."""
        waiting = sorted(
            (w for w in self._workers if w.request), key=lambda w: (w.request[0] == "need", w.rank)
        )
        blocked, all_wait = False, len(waiting) == len(self._workers)
        for worker in waiting:
            word, gigabytes = worker.request
            others = sum(w.gigabytes for w in self._workers if w is not worker)
            fits = others + gigabytes <= self._device_gb or all_wait
            # Nothing large may start before a worker that waits for memory to be timed.
            if self._alone or not fits or (blocked and word == "need" and gigabytes > 2 * IDLE_GB):
                blocked = blocked or not fits
                continue
            if word == "ready":
                self._alone = worker
                for other in self._workers:
                    if other is not worker:
                        self._stop(other)
            worker.answer()

    def _stop(self, worker):
        worker.stopped = True
        worker.signal(signal.SIGSTOP)

    def _share(self, worker):
        """End the time of a worker alone on the machine."""
        if self._alone is not worker:
            return
        self._alone = None
        for other in self._workers:
            if other.stopped:
                other.stopped = False
                other.signal(signal.SIGCONT)

    def _end(self, worker):
        status = worker.wait()
        worker.signal(signal.SIGKILL)  # its own helpers, if any are left
        self._workers.remove(worker)
        self._share(worker)
        self._fail(worker.task, worker.missing, f"exit status {status}: {worker.last_line}"[:300])

    def _end_slow(self):
        for worker in self._workers:
            if worker.active_seconds > self._task_seconds and not worker.stopped:
                worker.last_line = f"longer than {self._task_seconds:.0f} s"
                worker.active_seconds = 0.0
                worker.signal(signal.SIGKILL)

    def _fail(self, task, modes, reason):
        for mode in modes:
            self._on_result(task, {"mode": mode, "failed": reason})
