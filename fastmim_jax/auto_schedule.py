"""Batch, epochs, warm-up and learning rate from the number of images, where a config says "auto".

The number of updates, not of epochs, decides how much is learned: few images are shown more often
(arXiv 2112.10740 pre-trains on small data sets so). A batch leaves about 30 updates to an epoch.
"""

import copy
import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from fastmim_jax.stages import AUTO

BATCH, EPOCHS, WARMUP, BASE_LR = KEYS = (
    "schedule.batch_size",
    "schedule.epochs",
    "schedule.warmup_epochs",
    "optimizer.base_lr",
)
UPDATES_PER_EPOCH = 30
SMALLEST_BATCH, LARGEST_BATCH = 32, 1024
LR_BATCH = 256  # images that base learning rates are for


class Kind(NamedTuple):
    """The constants of a kind of training.

    updates: of 1,000 images; others take as many times more or fewer as the square root of their number.
    epochs: (fewest, most).
    warmup: share of the epochs.
    peak_lr: of batches of 256 images and more; smaller ones have less, with the square root of the batch.
    """

    updates: int
    epochs: tuple[int, int]
    warmup: float
    peak_lr: float


# The peak of pre-training is that of experiments/transfer, whose runs are as short.
PRETRAINING = Kind(updates=3000, epochs=(20, 800), warmup=0.05, peak_lr=1.5e-3)
FINETUNING = Kind(updates=2000, epochs=(20, 100), warmup=0.1, peak_lr=2e-3)


class Filled(NamedTuple):
    """A config without "auto" in KEYS, and (label, text) lines that give the reasons."""

    config: ConfigDict
    notes: list[tuple[str, str]]


def set_auto(config: ConfigDict) -> None:
    """Let the keys of KEYS follow from the number of images; any of them may be set to a number after."""
    with config.unlocked(), config.ignore_type():
        for key in KEYS:
            section, name = key.split(".")
            del config[section][name]
            config[section][name] = FieldReference(AUTO, field_type=object)


def has_auto(config: ConfigDict) -> bool:
    """Return whether a key of KEYS is "auto"."""
    return any(_get(config, key) == AUTO for key in KEYS)


def fill_auto(config: ConfigDict, records: int) -> Filled:
    """Replace "auto" in KEYS by numbers; a config without "auto" is returned as it is.

    Args:
      records: images in the training data.
    """
    if not has_auto(config):
        return Filled(config, [])
    config = copy.deepcopy(config)
    notes: list[tuple[str, str]] = []
    kind, action = (FINETUNING, "fine-tuning") if "model" in config else (PRETRAINING, "pre-training")

    def fill(key: str, value: Any, reason: str) -> Any:
        if _get(config, key) != AUTO:
            return _get(config, key)
        section, name = key.split(".")
        with config.unlocked(), config.ignore_type():
            del config[section][name]
            config[section][name] = value
        notes.append(("auto" if not notes else "", f"{key} {value:g}: {reason}"))
        return value

    batch = fill(
        BATCH,
        _batch(records),
        f"{UPDATES_PER_EPOCH} updates or more an epoch of {records:,} images, at most {LARGEST_BATCH:,}",
    )
    updates = config.schedule.steps or round(kind.updates * math.sqrt(records / 1000))
    epochs = updates * batch / records
    if config.schedule.steps:
        if _get(config, EPOCHS) == AUTO:
            fill(EPOCHS, round(epochs, 2), f"schedule.steps is {updates:,}")
    else:
        least, most = kind.epochs
        epochs = fill(
            EPOCHS,
            float(min(max(round(epochs), least), most)),
            f"{action} on {records:,} images takes about {updates:,} updates, {least} to {most} epochs",
        )
    fill(WARMUP, round(kind.warmup * epochs, 2), f"{kind.warmup:.0%} of the run")
    peak = kind.peak_lr * min(1.0, math.sqrt(batch / LR_BATCH))
    scale = "" if batch >= LR_BATCH else " and falls with the square root of a smaller batch"
    fill(
        BASE_LR,
        float(f"{peak * LR_BATCH / batch:.3g}"),
        f"a peak of {peak:.2g}; it is {kind.peak_lr:g} for batches of {LR_BATCH}{scale}",
    )
    return Filled(config, notes)


def _batch(records: int) -> int:
    """Return the largest power of two that leaves UPDATES_PER_EPOCH, in its bounds and within the data."""
    wanted = min(max(records / UPDATES_PER_EPOCH, SMALLEST_BATCH), LARGEST_BATCH, records)
    return 2 ** int(math.log2(wanted)) if wanted >= 1 else 1


def _get(config: ConfigDict, key: str) -> Any:
    section, name = key.split(".")
    return config[section][name]
