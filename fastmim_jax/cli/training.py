"""The commands that train: pre-training, fine-tuning, segmentation."""

from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.start_jax import start_jax


def pretrain(values: Any, paths: list[str]) -> None:
    """Pre-train in --workdir, or resume a run there."""
    _train("pretrain", values)


def finetune(values: Any, paths: list[str]) -> None:
    """Fine-tune a classifier from config.init in --workdir, or resume a run there."""
    _train("finetune", values)


def segment(values: Any, paths: list[str]) -> None:
    """Train a segmentation on images with masks, from config.init, in --workdir, or resume a run there."""
    _train("segment", values)


def _train(kind: str, values: Any) -> None:
    config = check_config(values.config, kind)
    from fastmim_jax.data.workers import start_resource_tracker

    start_resource_tracker()
    from fastmim_jax.api.runs import RUNS

    start_jax(values, config.run.peer_timeout_seconds)
    options = dict(accept_changed_data=values.accept_changed_data, extend=values.extend)
    RUNS[kind](config, values.workdir, **options)


def check_config(config: Any, kind: str = "") -> Any:
    """Check every key of a config and return it; kind: of `kind_of`, that the command needs, or "".

    Raises:
      UserError: a config of another kind, or a value that a key does not accept.
    """
    from fastmim_jax.saved_config import kind_of

    if kind and kind_of(config) != kind:
        raise UserError(f"this config is for another command: type fastmim {kind_of(config)} with it")
    from fastmim_jax.validate import check_values

    check_values(config)
    return config


def check_measurable(config: Any) -> Any:
    """Check a config that `bench` or `plan` measures, and return it; raises as `check_config`."""
    from fastmim_jax.saved_config import kind_of

    if kind_of(config) == "segment":
        raise UserError(
            "bench and plan measure pre-training and fine-tuning: give such a config; `fastmim segment` "
            "itself prints its images/s and the memory that its step needs"
        )
    return check_config(config)


def is_segmentation(workdir: str, step: int | None) -> bool:
    """Return whether a checkpoint is one of segmentation."""
    from fastmim_jax.paths import place
    from fastmim_jax.run_folder import find_checkpoint
    from fastmim_jax.saved_config import kind_of
    from fastmim_jax.train.remote.reading import local_run
    from fastmim_jax.train.runs import read_config

    return kind_of(read_config(find_checkpoint(local_run(place(workdir), step)).workdir)) == "segment"
