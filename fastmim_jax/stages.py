"""Stages of a pre-training run (FastMIM-P): `config.stages` overrides some keys of the config per stage."""

import copy
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

AUTO = "auto"  # `schedule.accumulation`: the smallest that fits in memory, see `train.accumulation`

# Tuple of `config.stages` -> (the key that it overrides, how an entry becomes that key's value).
STAGE_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "image_sizes": ("data.image_size", lambda size: (size, size) if isinstance(size, int) else tuple(size)),
    "batch_sizes": ("schedule.batch_size", int),
    "accumulations": ("schedule.accumulation", lambda number: number if number == AUTO else int(number)),
    "block_sizes": ("method.block_size", int),
    "windows": ("method.backbone.window", lambda window: window or None),
}


def stage_lengths(config: ConfigDict) -> dict[str, int]:
    """Return {tuple of `config.stages`: its length} of the tuples that are not empty."""
    if "stages" not in config:
        return {}
    keys = (*STAGE_KEYS, "start_epochs")
    return {key: len(config.stages[key]) for key in keys if len(config.stages[key])}


def stage_count(config: ConfigDict) -> int:
    """Return the number of stages of a run: 1 without `config.stages`."""
    return max(stage_lengths(config).values(), default=1)


def at_stage(config: ConfigDict, stage: int) -> ConfigDict:
    """Return a copy of a config in which the overridden keys have the values of one stage."""
    config = copy.deepcopy(config)
    for name in stage_lengths(config):
        if name in STAGE_KEYS:
            key, convert = STAGE_KEYS[name]
            *sections, last = key.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[last] = convert(config.stages[name][stage])
    return config


def micro_batches(schedule: ConfigDict) -> int:
    """Return the accumulation of `config.schedule`: 1 for AUTO, which is chosen before the first step."""
    return 1 if schedule.accumulation == AUTO else schedule.accumulation
