"""Training of a backbone with a head on labelled data: what fine-tuning and segmentation share."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import optax

from fastmim_jax.build import stored_images
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.io import write_json
from fastmim_jax.models.base import Backbone
from fastmim_jax.plan import StagePlan
from fastmim_jax.train import sharding, state
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.loop import train
from fastmim_jax.train.optimizer import layer_lr_scales, make_optimizer, no_decay_names
from fastmim_jax.train.remote.workdir import in_local_copy
from fastmim_jax.train.report import Note, describe_start, log_notes
from fastmim_jax.train.run_start import make_run_start
from fastmim_jax.train.runs import LoadedRun, load_run, read_config
from fastmim_jax.train.stage import (
    TrainStage,
    abstract_state,
    cached,
    optimizer_options,
    stage_fields,
    update_options,
)
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.warm_start import has_checkpoint, transfer_report, warm_start
from fastmim_jax.train.workdir import removed_if_refused
from fastmim_jax.validate import check_classes


class Task(NamedTuple):
    """A kind of training with labels.

    open_data: config -> (training data, evaluation data), sources with `classes`.
    make_stage: (config, number of records, classes, loaded=, stored=) -> TrainStage with `classes`.
    describe: (stage, source, held-out source, lines on the start) -> lines.
    """

    open_data: Callable[[Any], tuple[Any, Any]]
    make_stage: Callable[..., Any]
    describe: Callable[..., list[Note]]


class Evaluation(Protocol):
    """Evaluates a run with labels, see `evaluate.best_checkpoint.BestCheckpoint`."""

    def hook(self) -> Hook:
        """Return the hook that evaluates during the run."""

    def report(self) -> list[str]:
        """Write the report of the finished run and return it as lines."""

    def __enter__(self) -> "Evaluation": ...

    def __exit__(self, *exception: Any) -> None: ...


def supervised_fields(
    config: Any,
    plan: StagePlan,
    model: nn.Module,
    reader: ImageReader,
    step: Callable,
    devices: Sequence[jax.Device],
    loaded: LoadedRun | None = None,
) -> dict[str, Any]:
    """Return the fields of a `TrainStage` but `rebuild`.

    Args:
      config: checked.
      model: with a backbone `encoder`.
      step: of `train.steps`, with the options of its own; the model and those of all training are added.
      loaded: a run to start from, or None.
    """
    encoder: Backbone = model.encoder
    optimizer_of = partial(_optimizer, config.optimizer, encoder)
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    init = state.Initializer(model, optimizer_of, reader.image_shape, bool(config.optimizer.ema_decay))
    abstract = abstract_state(init, mesh, config.run)
    update = partial(
        step,
        model=model,
        optimizer=optimizer_of(abstract.params),
        **update_options(config, plan, mesh),
        ema_decay=config.optimizer.ema_decay,
    )

    def create() -> TrainState:
        initial = state.create_state(init, abstract, config.seed)
        if loaded is None:
            return initial
        return warm_start(loaded.variables, initial, optimizer_of, abstract, encoder.resampling)

    return dict(stage_fields(config, plan, mesh, model, reader, abstract, update), create=create)


def _optimizer(options: Any, encoder: Backbone, params: Any) -> optax.GradientTransformation:
    return make_optimizer(
        params,
        no_decay=no_decay_names(params, encoder, options.official),
        scales=layer_lr_scales(params, encoder, options.layer_decay, options.official),
        **optimizer_options(options),
    )


@in_local_copy
def train_supervised(
    config: Any,
    workdir: str | Path,
    task: Task,
    open_evaluation: Callable[[Any, Any, Path, Callable[[str], None]], Evaluation],
    *,
    log: Callable[[str], None] = print,
    accept_changed_data: bool = False,
    extend: bool = False,
    measure_baselines: Callable[..., list[Note]] | None = None,
) -> int:
    """Train in a work directory, or resume there.

    Args:
      config: of the kind of the task.
      workdir: a folder, made if missing, or an address such as gs://bucket/run; holds the files of
        pre-training, classes.json, transfer.json, and the files of the evaluation.
      open_evaluation: (stage, source of the evaluation images, workdir, log) -> Evaluation.
      log: prints a line.
      accept_changed_data: resume with other training data than the run was begun with.
      extend: resume a run for longer than it was begun for, see `prepare_workdir`.
      measure_baselines: (config, source, held-out source, run to start from or None, workdir, log) -> lines
        on the scores to beat; None for no lines.

    Returns:
      The number of updates done.

    Raises:
      Stopped: by a signal, before the last step; the state is saved.
      UserError: bad config, data, checkpoint or work directory.
    """
    log = log if jax.process_index() == 0 else lambda text: None
    with removed_if_refused(workdir), contextlib.ExitStack() as stack:
        source, held_out = task.open_data(config)
        resolve = partial(_resolve_start, source)
        start = make_run_start(
            *(config, workdir, source, held_out, resolve),
            log=log,
            accept_changed_data=accept_changed_data,
            classes_fixed=True,
        )
        config, loaded, stored = start.config, start.loaded, stored_images(source)
        stage = task.make_stage(config, len(source), source.classes, loaded=loaded, stored=stored)
        origin, report = [], None
        if loaded:
            report = transfer_report(loaded.variables, stage.abstract, stage.model.encoder.resampling)
            origin = describe_start(loaded, report)
        source = cached(source, config, log)
        path = stack.enter_context(start.written(workdir, extend))
        if jax.process_index() == 0:
            write_json(path / "classes.json", stage.classes, indent=0)
            if report:
                write_json(path / "transfer.json", report._asdict())
        log_notes([*task.describe(stage, source, held_out, origin), *start.notes], log)
        to_beat: list[Note] = []
        if measure_baselines is not None:
            to_beat = measure_baselines(config, source, held_out, loaded, path, log)
            log_notes(to_beat, log)
        evaluations: list[Evaluation] = []

        def make_hooks(stage: TrainStage, _: Any, log: Callable[[str], None]) -> list[Hook]:
            evaluations.append(stack.enter_context(open_evaluation(stage, held_out, path, log)))
            return [evaluations[-1].hook()]

        step = train([stage], config, source, path, make_hooks, log)
        if step == stage.plan.total_steps or evaluations[-1].hook().ended(step):
            for line in evaluations[-1].report():
                log(line)
            log_notes(to_beat, log)
    return step


def _resolve_start(source: Any, config: Any, workdir: str | Path) -> tuple[Any, LoadedRun | None]:
    """See `resolve_start`; raises UserError too if the config does not fit the classes of the data."""
    check_classes(config, len(source.classes), source)
    return resolve_start(config, workdir)


def resolve_start(config: Any, workdir: str | Path) -> tuple[Any, LoadedRun | None]:
    """Return the complete config and the run to start from, or None.

    A work directory with a checkpoint has the complete config.

    Raises:
      UserError: `config.init` is no checkpoint, or one of another backbone.
    """
    config_file = Path(workdir) / "config.json"
    if config_file.exists() and has_checkpoint(workdir):
        return _complete(config, read_config(workdir)), None
    loaded = load_run(config.init) if config.init else None
    return inherit_backbone(config, loaded.config if loaded else None), loaded


def _complete(config: Any, saved: Any) -> Any:
    """Return the config with the unset keys of its backbone, and the image size, from a saved one."""
    if "model" not in saved:
        return config  # of pre-training: refused with the other keys that differ
    config.data.image_size = tuple(config.data.image_size) or tuple(saved.data.image_size)
    for key, value in saved.model.backbone.items():
        if config.model.backbone[key] in (None, ""):
            config.model.backbone[key] = tuple(value) if isinstance(value, list) else value
    return config
