"""A run of Weights & Biases. Its own variables, such as WANDB_MODE and WANDB_BASE_URL, apply."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from fastmim_jax.errors import describe_failure
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars

SECONDS_TO_CONNECT = 30  # then the run is recorded offline
PROJECT = "fastmim_jax"


class WandbRun:
    """A run, recorded in WORKDIR/wandb and uploaded unless WANDB_MODE=offline.

    Steps that the run has already are left out: the library refuses earlier ones, and they are the same.

    Args:
      facts: on the run.
      saved: `where` of the run that is continued, {} for a new one.
    """

    def __init__(self, facts: RunFacts, saved: Mapping[str, str]):
        import wandb

        self._wandb = wandb
        project = facts.project or os.environ.get("WANDB_PROJECT") or PROJECT
        run_id = saved.get("run", "") if saved.get("project") == project else ""
        options: dict[str, Any] = dict(
            project=project,
            id=run_id or secrets.token_hex(4),
            name=facts.workdir.name,
            dir=str(facts.workdir),
            resume="allow",
            config=facts.config,
            allow_val_change=True,
        )
        settings: dict[str, Any] = dict(
            console="off",
            silent=True,
            disable_code=True,
            init_timeout=SECONDS_TO_CONNECT,
            x_stats_pid=os.getppid(),
        )
        problem = ""
        try:
            self._run = wandb.init(**options, settings=wandb.Settings(**settings))
        except Exception as error:  # no server, no key, no permission: nothing is lost
            problem = describe_failure(error)
            wandb.teardown()  # its service holds the id
            self._run = wandb.init(**options, mode="offline", settings=wandb.Settings(**settings))
        offline = self._run.offline
        self._next = max(self._run.step, facts.logged + 1 if run_id and offline else 0)
        command = f"wandb sync {os.path.dirname(self._run.dir)}"
        self.where = {"run": self._run.id, "project": project, "complete": command}
        self.note = "" if offline else self._run.url or ""
        if offline:
            reason = f" ({problem})" if problem else ""
            self.note = f"recorded offline{reason}; `{command}` uploads it"

    def log_scalars(self, item: Scalars) -> None:
        """Log metrics."""
        if item.step >= self._next:
            self._run.log({**item.values, "_timestamp": item.time}, step=item.step)

    def log_picture(self, item: Picture) -> None:
        """Log a picture."""
        if item.step >= self._next:
            picture = {item.name: self._wandb.Image(str(item.path)), "_timestamp": item.time}
            self._run.log(picture, step=item.step)

    def finish(self, done: bool) -> None:
        """Upload the rest; a run that was interrupted counts as crashed until it is resumed."""
        self._run.finish(exit_code=0 if done else 1)
        self._wandb.teardown()  # waits until everything is on the disk
