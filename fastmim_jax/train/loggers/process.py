"""The client of a server in a process of its own, so that a server that hangs costs no step.

The processes talk in lines of JSON. Each line to the client gets one line back: {} or {"error": reason},
with {"note": text} where users should read something, and {"run": id} after the first.
"""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars

FILE = "loggers.json"  # in a work directory: {logger: {"run": id, "project": name, ...}}
SECONDS_TO_ANSWER = 120.0  # imports and the first connection are slow
_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class LoggerError(Exception):
    """The client could not log an item; the message is the reason."""


class LoggerProcess:
    """Writes to a logger through a process, which starts with the first item and again after it has died.

    Args:
      key: of the logger, "wandb" or "mlflow".
      facts: on the run. The id of the logger's run is kept in FILE, so that a resumed run continues it.

    Attributes:
      notes: what the client had to say to users.
    """

    def __init__(self, key: str, facts: RunFacts):
        self.notes: list[str] = []
        self._key, self._facts = key, facts
        self._process: subprocess.Popen | None = None
        self._where: dict[str, Any] = {}

    def write(self, item: Scalars | Picture) -> None:
        """Write an item, within SECONDS_TO_ANSWER.

        Raises:
          LoggerError: it could not be written.
        """
        if self._process is None:
            self._start()
        kind = type(item).__name__.lower()
        values = item._asdict()
        values = {key: str(x) if isinstance(x, Path) else x for key, x in values.items()}
        self._ask({kind: values}, SECONDS_TO_ANSWER)

    def finish(self, done: bool) -> None:
        """Let the client complete its run; done: whether training has ended as planned."""
        process = self._process
        if process is not None:
            self._ask({"finish": done}, None)
            process.wait()

    def kill(self) -> bool:
        """End the process and all that it started; return whether it was still at work."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def how_to_complete(self) -> str:
        """Return what users may type to upload the rest, if anything."""
        command = self._where.get("complete", "")
        return f": type {command}" if command else ""

    def _start(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)  # of this thread; the process inherits it
        path = os.pathsep.join(dict.fromkeys(map(os.path.abspath, filter(None, sys.path))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastmim_jax.train.loggers.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            cwd=self._facts.workdir,
            start_new_session=True,
        )
        saved = self._read_saved()
        start = {**self._facts._asdict(), "workdir": str(self._facts.workdir), "saved": saved}
        answer = self._ask({"start": {"logger": self._key, **start}}, SECONDS_TO_ANSWER)
        self._where = answer.get("where", {})
        if self._where and self._where != saved:
            path_ = self._facts.workdir / FILE
            write_json(path_, {**self._read_all(), self._key: self._where})

    def _read_saved(self) -> dict[str, Any]:
        """Return where the run was logged before, {} for a new one."""
        saved = self._read_all().get(self._key, {})
        return saved if isinstance(saved, dict) else {}

    def _read_all(self) -> dict[str, Any]:
        path = self._facts.workdir / FILE
        if not path.exists():
            return {}
        try:
            return read_json(path, dict, "the ids of the loggers' runs")
        except UserError as error:
            note = f"{error}: the loggers begin new runs"
            self.notes += [note] if note not in self.notes else []
            return {}

    def _ask(self, message: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send a line and return the answer; a process that does not answer is ended."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write((json.dumps(message) + "\n").encode())
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            line = process.stdout.readline() if ready else b""
        except OSError:
            ready, line = [process.stdout], b""
        if not line:
            self.kill()
            self._process = None
            raise LoggerError(f"no answer in {seconds:.0f} s" if not ready else "its process has ended")
        answer = json.loads(line)
        self.notes += [answer["note"]] if "note" in answer else []
        if "error" in answer:
            if "start" in message:
                self.kill()
                self._process = None
            raise LoggerError(answer["error"])
        return answer
