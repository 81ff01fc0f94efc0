"""Pre-training: its stages, built from a config, and the whole run."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.build import NOT_PREPARED, StoredImages, create_method, create_reader, stored_images
from fastmim_jax.io import write_json
from fastmim_jax.plan import PretrainPlan, make_pretrain_plan
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train import sharding, state, steps
from fastmim_jax.train.held_out import HeldOutLoss, fixed_batches, trivial_losses
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.inference import MethodStage, method_programs, run_key
from fastmim_jax.train.loop import train
from fastmim_jax.train.optimizer import make_optimizer
from fastmim_jax.train.remote.workdir import in_local_copy
from fastmim_jax.train.report import (
    BASELINES_FILE,
    Note,
    describe_pretraining,
    describe_start,
    log_notes,
    read_baselines,
)
from fastmim_jax.train.run_start import make_run_start
from fastmim_jax.train.runs import LoadedRun, load_run
from fastmim_jax.train.stage import (
    TrainStage,
    abstract_state,
    cached,
    open_held_out_data,
    open_training_data,
    optimizer_options,
    stage_fields,
    update_options,
    with_values,
)
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.warm_start import has_checkpoint, transfer_report, warm_start
from fastmim_jax.train.workdir import removed_if_refused
from fastmim_jax.validate import check_pretraining, check_stored_images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PretrainStage(MethodStage, TrainStage):
    """One stage of pre-training."""

    plan: PretrainPlan

    @property
    def views(self) -> dict[str, Any]:
        """See `TrainStage.views`."""
        return dict(
            views_per_image=self.config.data.views_per_image, views_per_crop=_mask_views(self.config.data)
        )


def make_pretrain_stages(
    config: Any,
    records: int,
    devices: list | None = None,
    loaded: LoadedRun | None = None,
    stored: StoredImages = NOT_PREPARED,
) -> list[PretrainStage]:
    """Return all stages of a config, one if it names none; see `make_pretrain_stage`."""
    return [
        make_pretrain_stage(config, records, devices, stage, loaded, stored)
        for stage in range(stage_count(config))
    ]


def make_pretrain_stage(
    config: Any,
    records: int,
    devices: list | None = None,
    stage: int = 0,
    loaded: LoadedRun | None = None,
    stored: StoredImages = NOT_PREPARED,
) -> PretrainStage:
    """Build one stage of pre-training; nothing is compiled yet.

    Args:
      config: of the run.
      records: images in the training data.
      devices: None for all.
      stage: counted from 0.
      loaded: a run to start from, or None.
      stored: how the training data stores its images, see `stored_images`.

    Raises:
      UserError: the config cannot work.
    """
    devices, run_config = devices or jax.devices(), fill_auto(config, records).config
    config = at_stage(run_config, stage)
    check_pretraining(run_config, platform=devices[0].platform, devices=len(devices))
    check_stored_images(config, stored)
    method, reader = create_method(config.method), create_reader(config, stored)
    plan = make_pretrain_plan(
        run_config,
        records=records,
        stride=method.encoder.stride,
        devices=len(devices),
        stage=stage,
        num_masked=method.num_masked,
    )
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    optimizer_of = partial(make_optimizer, **optimizer_options(config.optimizer))
    optimizer_of = partial(optimizer_of, no_decay=tuple(config.optimizer.no_decay))
    init = state.Initializer(method, optimizer_of, reader.image_shape)
    abstract = abstract_state(init, mesh, config.run)
    variables, key = abstract.eval_variables(), run_key(config.seed)
    update = partial(
        steps.pretrain_step,
        method=method,
        prepare=reader.normalize_training,
        mask_views=_mask_views(config.data),
        optimizer=optimizer_of(abstract.params),
        **update_options(config, plan, mesh),
    )

    def create() -> TrainState:
        initial = state.create_state(init, abstract, config.seed)
        return initial if loaded is None else warm_start(loaded.variables, initial, optimizer_of, abstract)

    def rebuild(values: dict[str, Any]) -> PretrainStage:
        changed = with_values(run_config, values)
        return make_pretrain_stage(changed, records, devices, stage, loaded, stored)

    return PretrainStage(
        **stage_fields(config, plan, mesh, method, reader, abstract, update),
        create=create,
        rebuild=rebuild,
        **method_programs(method, reader, key, variables, mesh),
    )


def _mask_views(data: Any) -> int:
    """Return how many rows in a row have one crop and disjoint masks."""
    return data.views_per_image if data.views == "masks" else 1


@in_local_copy
def pretrain(
    config: Any,
    workdir: str | Path,
    hooks: Sequence[Callable[[PretrainStage, Path], Hook]] = (),
    log: Callable[[str], None] = print,
    accept_changed_data: bool = False,
    extend: bool = False,
) -> int:
    """Pre-train in a work directory, or resume there.

    Args:
      config: resolved, see `fastmim_jax.config`.
      workdir: a folder, made if missing, or an address such as gs://bucket/run; holds
        config.json, metrics.jsonl, tensorboard/, checkpoints/, ...
      hooks: functions (stage, workdir) -> Hook, called at the start of every stage.
      log: prints a line.
      accept_changed_data: resume with other training data than the run was begun with.
      extend: resume a run for longer than it was begun for, see `prepare_workdir`.

    Returns:
      The number of updates done.

    Raises:
      Stopped: by a signal, before the last step; the state is saved.
      UserError: bad config, data or work directory; too many undecodable records or non-finite updates.
    """
    log = log if jax.process_index() == 0 else lambda text: None
    with removed_if_refused(workdir):
        source = open_training_data(config)
        held_out = open_held_out_data(config, log)
        start = make_run_start(
            *(config, workdir, source, held_out, _resolve_start),
            log=log,
            accept_changed_data=accept_changed_data,
        )
        config, loaded = start.config, start.loaded
        stages = make_pretrain_stages(config, len(source), loaded=loaded, stored=stored_images(source))
        notes = describe_pretraining(stages, source, held_out)
        if loaded:
            report = transfer_report(loaded.variables, stages[0].abstract)
            notes = [*describe_start(loaded, report), *notes]
        source = cached(source, config, log)
        with start.written(workdir, extend) as path:

            def make_hooks(stage: PretrainStage, state: TrainState, log: Callable) -> list[Hook]:
                own = _held_out_hooks(stage, state, source, held_out, path, log)
                return own + [make_hook(stage, path) for make_hook in hooks]

            log_notes([*notes, *start.notes], log)
            return train(stages, config, source, path, make_hooks, log)


def _resolve_start(config: Any, workdir: str | Path) -> tuple[Any, LoadedRun | None]:
    """Return the config, and the run to start from unless the run is resumed."""
    return config, None if not config.init or has_checkpoint(workdir) else load_run(config.init)


def _held_out_hooks(
    stage: PretrainStage, state: TrainState, source: Any, held_out: Any, workdir: Path, log: Callable
) -> list[Hook]:
    """Return the hook of the held-out loss, if any; log the losses of trivial predictors.

    They are computed once and stored in baselines.json.
    """
    baselines_of_stages, hooks = read_baselines(workdir), []
    known = len(baselines_of_stages) > stage.plan.stage
    baselines = baselines_of_stages[stage.plan.stage] if known else {}
    for name, data in (("training", source), ("held-out", held_out)):
        if data is None or (name == "training" and name in baselines):
            continue
        size, batches = fixed_batches(stage, data, stage.config.data.eval_records)
        if name == "held-out":
            hooks.append(Hook(stage.config.run.eval_every, HeldOutLoss(stage, size, batches)))
        if name not in baselines:
            baselines[name] = trivial_losses(stage, state.eval_variables(), size, batches)
    baselines_of_stages[stage.plan.stage :] = [baselines]
    if jax.process_index() == 0:
        write_json(workdir / BASELINES_FILE, baselines_of_stages, indent=2)
    notes = []
    for name, losses in baselines.items():
        text = ", ".join(f"always {guess} {loss:.4f}" for guess, loss in losses.items())
        notes.append(Note("trivial loss", f"{text} ({name} images)"))
    log_notes(notes, log)
    return hooks
