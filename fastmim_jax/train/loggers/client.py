"""The program of a logger's process: it reads lines of `process.LoggerProcess` and answers each."""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fastmim_jax.errors import describe_failure
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars

CLIENTS = {
    "wandb": "fastmim_jax.train.loggers.wandb_run:WandbRun",
    "mlflow": "fastmim_jax.train.loggers.mlflow_run:MlflowRun",
}
SECONDS_AFTER_DEATH = 60  # of the training process, to complete the run


class Client(Protocol):
    """A run of a logging library.

    Attributes:
      where: {"run": id, "project": name}, to continue it; "complete": what to type to upload the rest.
      note: for users, such as the address of the run.
    """

    where: dict[str, str]
    note: str

    def log_scalars(self, item: Scalars) -> None:
        """Log metrics."""

    def log_picture(self, item: Picture) -> None:
        """Log a picture."""

    def finish(self, done: bool) -> None:
        """Complete the run; done: whether training has ended as planned."""


def main() -> None:
    """Serve a training process until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print
    client: Client | None = None
    pictures_fail = False
    for line in sys.stdin:
        ((kind, content),) = json.loads(line).items()
        answer: dict[str, Any] = {}
        try:
            if kind == "start":
                client = _open(content)
                answer = {"where": client.where} | ({"note": client.note} if client.note else {})
            elif client is not None and kind == "scalars":
                client.log_scalars(Scalars(**content))
            elif client is not None and kind == "picture":
                try:
                    client.log_picture(Picture(**{**content, "path": Path(content["path"])}))
                except Exception as error:  # pictures go to another store: metrics must not wait for it
                    if not pictures_fail:
                        answer = {"note": f"pictures cannot be logged ({_describe(error)}); metrics are"}
                    pictures_fail = True
            elif client is not None and kind == "finish":
                client.finish(content)
                client = None
        except Exception as error:  # whatever a library raises
            answer = {"error": _describe(error)}
        print(json.dumps(answer), file=answers, flush=True)
        if kind == "finish":
            return
    if client is not None:  # the training process was killed
        signal.alarm(SECONDS_AFTER_DEATH)
        client.finish(False)


def _open(content: dict[str, Any]) -> Client:
    """Open the client of a message "start"."""
    key, saved = content.pop("logger"), content.pop("saved")
    module, name = CLIENTS[key].split(":")
    facts = RunFacts(**{**content, "workdir": Path(content["workdir"])})
    return getattr(import_module(module), name)(facts, saved)


def _describe(error: Exception) -> str:
    return describe_failure(error) if str(error) else type(error).__name__


if __name__ == "__main__":
    main()
