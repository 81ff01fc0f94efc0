"""How many updates each arm gets, so that all runs of a table end in the time that there is."""

from collections.abc import Mapping
from typing import NamedTuple

from arms import Arm

TUNING_SHARE = 0.3  # of the time, for fine-tuning


class Speed(NamedTuple):
    """Measured on this machine.

    images_per_second: in the steps.
    overhead_seconds: of a run beside its steps, such as compilation.
    """

    images_per_second: float
    overhead_seconds: float


class Updates(NamedTuple):
    """Updates of an arm: of pre-training (0 from scratch), and of fine-tuning."""

    pretraining: int
    tuning: int


def share_out(
    minutes: float,
    by: str,
    arms: Mapping[str, Arm],
    seeds: int,
    pretraining: Mapping[str, Speed],
    tuning: Mapping[str, Speed],
    batch_size: int,
    tuning_batch: int,
) -> dict[str, Updates]:
    """Return the updates of every arm.

    Args:
      minutes: of all arms and seeds.
      by: "updates", the same number for every pre-training, or "time", the same seconds for each.
      pretraining: speed of the pre-training of each arm that has one.
      tuning: speed of the fine-tuning of each arm.
      batch_size, tuning_batch: images per update.

    Raises:
      ValueError: the minutes are used up by compilation and the like.
    """
    overhead = sum(speed.overhead_seconds for speeds in (pretraining, tuning) for speed in speeds.values())
    seconds = 60 * minutes / seeds - overhead
    if seconds <= 0:
        raise ValueError(
            f"{minutes:g} minutes are fewer than the {overhead * seeds / 60:.1f} that starting and "
            f"compiling {len(arms)} arms with {seeds} seeds takes: type a larger --minutes, or fewer "
            "--arms or --seeds"
        )
    tuned = sum(tuning_batch / speed.images_per_second for speed in tuning.values())
    tuning_steps = max(1, int(TUNING_SHARE * seconds / tuned))
    rest = (1 - TUNING_SHARE) * seconds
    trained = {name: batch_size / speed.images_per_second for name, speed in pretraining.items()}
    longer = [name for name, arm in arms.items() if arm.longer]
    each = rest / (len(trained) + len(longer)) if trained else 0.0
    if by == "updates":
        # The time of the arms from scratch that train longer is that of the mean arm.
        each = rest / (sum(trained.values()) + len(longer) * sum(trained.values()) / len(trained))
    updates = {}
    for name, arm in arms.items():
        steps, more = 0, 0
        if name in trained:
            steps = max(1, int(each if by == "updates" else each / trained[name]))
        elif arm.longer:
            spare = each * (sum(trained.values()) / len(trained) if by == "updates" else 1.0)
            more = int(spare * tuning[name].images_per_second / tuning_batch)
        updates[name] = Updates(steps, tuning_steps + more)
    return updates
