"""Fine-tuning of a classifier: its stage, built from a config, and the whole run."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
import optax

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.build import NOT_PREPARED, StoredImages, create_classifier, create_reader, stored_images
from fastmim_jax.data.labels import open_labelled
from fastmim_jax.io import write_json
from fastmim_jax.models.base import Backbone
from fastmim_jax.plan import make_stage_plan
from fastmim_jax.train import sharding, state, steps
from fastmim_jax.train.augmentation import device_augmentation, host_augmentation
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.inference import ClassifierStage, classify_program
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.loop import train
from fastmim_jax.train.optimizer import layer_lr_scales, make_optimizer, no_decay_names
from fastmim_jax.train.remote.workdir import in_local_copy
from fastmim_jax.train.report import Note, describe_finetuning, describe_start, log_notes
from fastmim_jax.train.run_start import make_run_start
from fastmim_jax.train.runs import LoadedRun, load_run, read_config
from fastmim_jax.train.stage import (
    TrainStage,
    abstract_state,
    cached,
    optimizer_options,
    stage_fields,
    update_options,
    with_values,
)
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.warm_start import has_checkpoint, transfer_report, warm_start
from fastmim_jax.train.workdir import removed_if_refused
from fastmim_jax.validate import check_classes, check_finetuning, check_stored_images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FinetuneStage(ClassifierStage, TrainStage):
    """Fine-tuning of a classifier, a run of one stage."""

    inputs: ClassVar[tuple[str, ...]] = ("image", "flip", "label")

    @property
    def views(self) -> dict[str, Any]:
        """See `TrainStage.views`: RandAugment and repeated augmentation."""
        return host_augmentation(self.config.augment)


class Evaluation(Protocol):
    """Evaluates a run of fine-tuning, see `evaluate.best_checkpoint.BestCheckpoint`."""

    def hook(self) -> Hook:
        """Return the hook that evaluates during the run."""

    def report(self) -> list[str]:
        """Write the report of the finished run and return it as lines."""

    def __enter__(self) -> "Evaluation": ...

    def __exit__(self, *exception: Any) -> None: ...


def make_finetune_stage(
    config: Any,
    records: int,
    classes: Sequence[str],
    devices: list | None = None,
    loaded: LoadedRun | None = None,
    stored: StoredImages = NOT_PREPARED,
) -> FinetuneStage:
    """Build the stage of a fine-tuning run; nothing is compiled yet.

    Args:
      config: complete, see `inherit_backbone`.
      records: images in the training data.
      classes: their names.
      devices: None for all.
      loaded: a run to start from, or None.
      stored: how the training data stores its images, see `stored_images`.

    Raises:
      UserError: the config cannot work.
    """
    devices, config = devices or jax.devices(), fill_auto(config, records).config
    check_finetuning(config, platform=devices[0].platform, devices=len(devices))
    check_stored_images(config, stored)
    plan = make_stage_plan(config, records=records, devices=len(devices))
    model, reader = create_classifier(config.model, len(classes)), create_reader(config, stored)
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    optimizer_of = partial(_optimizer, config.optimizer, model.encoder)
    init = state.initializer(model, optimizer_of, reader.image_shape, bool(config.optimizer.ema_decay))
    abstract = abstract_state(init, mesh, config.run)
    variables, augment = abstract.eval_variables(), config.augment
    update = partial(
        steps.finetune_step,
        model=model,
        prepare=device_augmentation(augment, reader.normalize_training, len(classes), augment.mix_groups),
        optimizer=optimizer_of(abstract.params),
        **update_options(config, plan, mesh),
        ema_decay=config.optimizer.ema_decay,
    )

    def create() -> TrainState:
        initial = state.create_state(init, abstract, config.seed)
        if loaded is None:
            return initial
        return warm_start(loaded.variables, initial, optimizer_of, abstract, model.encoder.resampling)

    def rebuild(values: dict[str, Any]) -> FinetuneStage:
        changed = with_values(config, values)
        return make_finetune_stage(changed, records, classes, devices, loaded, stored)

    return FinetuneStage(
        **stage_fields(config, plan, mesh, model, reader, abstract, update),
        create=create,
        rebuild=rebuild,
        classes=tuple(classes),
        classify=classify_program(model, reader, variables, mesh),
    )


@in_local_copy
def finetune(
    config: Any,
    workdir: str | Path,
    open_evaluation: Callable[[FinetuneStage, Any, Path, Callable[[str], None]], Evaluation],
    log: Callable[[str], None] = print,
    accept_changed_data: bool = False,
    extend: bool = False,
    measure_baselines: Callable[..., list[Note]] | None = None,
) -> int:
    """Fine-tune in a work directory, or resume there.

    Args:
      config: see `fastmim_jax.config.finetune_config`.
      workdir: a folder, made if missing, or an address such as gs://bucket/run; holds the files of
        pre-training, classes.json, transfer.json, and the files of the evaluation.
      open_evaluation: (stage, source of the evaluation images, workdir, log) -> Evaluation.
      log: prints a line.
      accept_changed_data: resume with other training data than the run was begun with.
      extend: resume a run for longer than it was begun for, see `prepare_workdir`.
      measure_baselines: (config, source, held-out source, run to start from or None, workdir, log) -> lines
        on the accuracies to beat, see `evaluate.finetune_baselines`; None for no lines.

    Returns:
      The number of updates done.

    Raises:
      Stopped: by a signal, before the last step; the state is saved.
      UserError: bad config, data, checkpoint or work directory.
    """
    log = log if jax.process_index() == 0 else lambda text: None
    with removed_if_refused(workdir), contextlib.ExitStack() as stack:
        source, held_out = open_labelled(config)
        resolve = partial(_resolve_start, source)
        start = make_run_start(
            *(config, workdir, source, held_out, resolve),
            log=log,
            accept_changed_data=accept_changed_data,
            classes_fixed=True,
        )
        config, loaded, stored = start.config, start.loaded, stored_images(source)
        stage = make_finetune_stage(config, len(source), source.classes, loaded=loaded, stored=stored)
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
        log_notes([*describe_finetuning(stage, source, held_out, origin), *start.notes], log)
        to_beat: list[Note] = []
        if measure_baselines is not None:
            to_beat = measure_baselines(config, source, held_out, loaded, path, log)
            log_notes(to_beat, log)
        evaluations: list[Evaluation] = []

        def make_hooks(stage: FinetuneStage, _: Any, log: Callable[[str], None]) -> list[Hook]:
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


def _optimizer(options: Any, encoder: Backbone, params: Any) -> optax.GradientTransformation:
    return make_optimizer(
        params,
        no_decay=no_decay_names(params, encoder, options.official),
        scales=layer_lr_scales(params, encoder, options.layer_decay, options.official),
        **optimizer_options(options),
    )
