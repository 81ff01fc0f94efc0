"""Items of loggers: the scalars and the pictures of a step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Scalars(NamedTuple):
    """Metrics of a step: {name: value}; time in Unix seconds."""

    step: int
    time: float
    values: Mapping[str, float]


class Picture(NamedTuple):
    """A picture file of a step, under a name; time in Unix seconds."""

    step: int
    time: float
    name: str
    path: Path


class RunFacts(NamedTuple):
    """Facts on a run for its loggers.

    Attributes:
      workdir: absolute.
      config: flat, {"section.key": value}.
      project: of Weights & Biases, experiment of MLflow; "" for the environment's or the default.
      start: updates done already; later steps, of an interrupted run, come again.
      logged: the last step that was logged before, 0 for none.
    """

    workdir: Path
    config: dict[str, Any]
    project: str = ""
    start: int = 0
    logged: int = 0
