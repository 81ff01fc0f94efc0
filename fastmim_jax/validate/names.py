"""Names of keys, and what to type for a value: the flags in the sentences of a refused config."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.stages import STAGE_KEYS, at_stage, stage_lengths


def flag(key: str, value: Any) -> str:
    """Return the flag that sets a key, with the quotes that a shell needs."""
    value = tuple(value) if isinstance(value, list) else value
    return f"--config.{key}='{value}'" if isinstance(value, tuple) else f"--config.{key}={value}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return "1 image" or "2 images"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a run.

    run_config: of the run. config: the same with the values of the stage. index: counted from 0.
    """

    run_config: ConfigDict
    config: ConfigDict
    index: int

    def name(self, key: str) -> str:
        """Return where the value of a key stands: in the key itself or in a tuple of `config.stages`."""
        override = self._override(key)
        return f"config.stages.{override}[{self.index}]" if override else f"config.{key}"

    def typed(self, key: str, value: Any) -> str:
        """Return what to type to give a key another value in this stage."""
        override = self._override(key)
        if not override:
            return f"type {flag(key, value)}"
        return f"set entry {self.index + 1} of --config.stages.{override} to {value}"

    def _override(self, key: str) -> str | None:
        lengths = stage_lengths(self.run_config)
        return next((name for name, (own, _) in STAGE_KEYS.items() if own == key and name in lengths), None)


def stage_of(run_config: ConfigDict, index: int = 0) -> Stage:
    """Return a stage of a run; fine-tuning has one."""
    return Stage(run_config, at_stage(run_config, index), index)
