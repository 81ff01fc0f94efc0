"""The state at the start of a process: restored from the newest checkpoint, or created."""

from collections.abc import Callable, Sequence

from fastmim_jax.errors import UserError
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.resize_state import resize_state
from fastmim_jax.train.stage import TrainStage
from fastmim_jax.train.state import TrainState


def restore_or_create(
    stages: Sequence[TrainStage], checkpoints: Checkpoints, log: Callable[[str], None]
) -> tuple[TrainState, int, int]:
    """Restore the newest checkpoint, or create the initial state.

    Returns:
      The state, the number of updates done, and the index of the stage to train next.

    Raises:
      UserError: the checkpoint does not fit the stages.
    """
    latest = checkpoints.latest()
    if latest is None:
        return stages[0].create(), 0, 0
    position = checkpoints.position(latest)
    index = min(position.get("stage", 0), len(stages) - 1)
    plan = stages[index].plan
    if position["records"] != plan.record(latest):
        raise UserError(
            f"checkpoint {latest} was saved at record {position['records']:,}, not at "
            f"{plan.record(latest):,} as with batches of {plan.batch_size}: it was written with "
            "another batch size or other stages"
        )
    state = checkpoints.restore(latest, stages[index].abstract)
    log(f"resuming at step {latest:,} of {plan.total_steps:,}")
    if latest == plan.last_step and index < len(stages) - 1:
        index += 1
        state = next_stage(state, stages[index], log)
    return state, latest, index


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
