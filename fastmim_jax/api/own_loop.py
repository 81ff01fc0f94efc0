"""The parts of pre-training for a loop of one's own."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.api.settings import apply_settings
from fastmim_jax.api.spelling import python_errors
from fastmim_jax.mim.method import Method
from fastmim_jax.recipes import load_config
from fastmim_jax.start_jax import start_jax
from fastmim_jax.train.pretrain import PretrainStage, make_pretrain_stage
from fastmim_jax.train.state import TrainState


class Step(NamedTuple):
    """An update of a pre-training method, compiled at its first call.

    Attributes:
      stage: the method, its optimizer and its schedule on the devices.
    """

    stage: PretrainStage

    @property
    def batch_size(self) -> int:
        """Images of an update that the learning rate is for."""
        return self.stage.plan.batch_size

    def init(self) -> TrainState:
        """Return the state before the first update; the seed of the config determines it."""
        return self.stage.create()

    def __call__(self, state: TrainState, images: Any) -> tuple[TrainState, dict[str, Any]]:
        """Make one update.

        Args:
          state: donated, that is, not to be used again.
          images: (B, H, W, C) uint8 of the config's size; the masks follow from seed and step.

        Returns:
          The next state and {"loss", "grad_norm", "lr", "skipped", "skipped_in_row"}, scalars.
        """
        batch = {"image": np.asarray(images), "flip": np.zeros(len(images), bool)}
        return self.stage.step(state, self.stage.to_devices(batch, len(images)))


@python_errors
def make_step(config: str | ConfigDict, records: int, **settings: Any) -> tuple[Method, Step]:
    """Return a pre-training method and its update, for a loop of one's own.

    Args:
      config: such as "configs/own.py:tiny", see `list_configs`.
      records: images in the training data, which set the length of the schedule.
      **settings: see `pretrain`.

    Raises:
      UserError: the config cannot work.
    """
    start_jax()
    chosen = load_config(config) if isinstance(config, str) else config
    stage = make_pretrain_stage(apply_settings(chosen, settings, "make_step"), records)
    return stage.model, Step(stage)
