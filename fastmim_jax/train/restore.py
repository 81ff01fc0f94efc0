"""The state at the start of a process: restored from the newest checkpoint, or created."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import Checkpoints, describe_damage
from fastmim_jax.train.resize_state import resize_state
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.train.state import TrainState


class Start(NamedTuple):
    """The place where a process starts.

    checkpoint: step of the checkpoint to restore, or None. saved_in: index of the stage that wrote it.
    stage: index of the stage to train. first_hook: number of the first hook that was not called after that
    step, or None.
    """

    checkpoint: int | None
    saved_in: int
    stage: int
    first_hook: int | None = None

    @property
    def step(self) -> int:
        """Number of updates done."""
        return self.checkpoint or 0


def find_start(stages: Sequence[TrainStage], checkpoints: Checkpoints, log: Callable[[str], None]) -> Start:
    """Return where to start: at the newest whole checkpoint, or at the beginning.

    Damaged checkpoints are logged and renamed.

    Raises:
      UserError: the checkpoint does not fit the stages, or all are damaged.
    """
    latest = _newest_whole(checkpoints, log)
    if latest is None:
        return Start(None, 0, 0)
    position = checkpoints.position(latest)
    index = min(position.get("stage", 0), len(stages) - 1)
    plan = stages[index].plan
    if "records" not in position:
        raise UserError(
            f"checkpoint {checkpoints.directory / str(latest)} has no position in the data: delete it, or "
            "type another --workdir"
        )
    if position["records"] != plan.record(latest):
        raise UserError(
            f"checkpoint {latest} was saved at record {position['records']:,}, not at "
            f"{plan.record(latest):,} as with batches of {plan.batch_size}: it was written with "
            "another batch size or other stages"
        )
    first_hook = position.get("first_hook")
    at_its_end = latest == plan.last_step and index < len(stages) - 1 and first_hook is None
    return Start(latest, index, index + at_its_end, first_hook)


def _newest_whole(checkpoints, log):
    """Return the newest whole step or None, after moving damaged checkpoints out of the way."""
    found = checkpoints.find_whole()
    for line in describe_damage(checkpoints.directory, found):
        log(line)
    if found.step is None and found.damaged:
        raise UserError(
            f"no checkpoint in {checkpoints.directory} is whole: type another --workdir, or delete that "
            "folder to start again at step 0"
        )
    checkpoints.set_aside(found.damaged)
    return found.step


def restore_or_create(
    start: Start, stages: Sequence[TrainStage], checkpoints: Checkpoints, log: Callable[[str], None]
) -> TrainState:
    """Return the state to start with, in the shapes of the stage to train.

    Raises:
      UserError: the checkpoint does not fit the model.
    """
    if start.checkpoint is None:
        return stages[0].create()
    plan = stages[start.saved_in].plan
    state = checkpoints.restore(start.checkpoint, stages[start.saved_in].abstract)
    log(f"resuming at step {start.checkpoint:,} of {plan.total_steps:,}")
    if start.checkpoint == plan.total_steps:
        log(_how_to_train_longer(stages[-1].config.schedule.shape, checkpoints.directory.parent))
    return state if start.stage == start.saved_in else next_stage(state, stages[start.stage], log)


def _how_to_train_longer(shape, workdir):
    """Return what to type for more steps than a run has that is finished."""
    if shape == "step":
        return "the run is finished; to train longer, type --extend and a larger --config.schedule.epochs"
    return (
        "the run is finished, its learning rate is at its end; to train on from there, type "
        f"--config.init={workdir} and another --workdir"
    )


def next_stage(state, stage, log):
    """Return the state in the shapes of the next stage, and log the switch."""
    state, counts = resize_state(state, stage.abstract)
    plan = stage.plan
    height, width = plan.image_size
    resampled = "".join(f", {count} x {name} resampled" for name, count in counts.items())
    log(
        f"stage {plan.stage + 1} of {plan.stages}: {height} x {width} pixels from step "
        f"{plan.first_step + 1:,}{resampled}"
    )
    return state
