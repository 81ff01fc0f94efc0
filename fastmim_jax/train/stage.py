"""Stages of training: the common part of pre-training and fine-tuning."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Self

import jax
import numpy as np

from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.data.loader import Loader
from fastmim_jax.data.ram_cache import cache_in_memory
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.plan import StagePlan
from fastmim_jax.train import sharding, state
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.inference import InferenceStage, run_key
from fastmim_jax.train.optimizer import make_schedule
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.xla_options import compiler_options


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainStage(InferenceStage):
    """One stage of a run: a model, its optimizer and its schedule.

    Attributes:
      config: with the values of this stage in their usual places.
      plan: the numbers that follow from the config.
      abstract: TrainState of ShapeDtypeStructs with shardings.
      create: () -> the initial TrainState.
      make_step: number of micro-batches -> `step`, the same for the same number.
      rebuild: {config key: value} -> this stage of a run whose config has these values.
    """

    config: Any
    plan: StagePlan
    abstract: TrainState
    create: Callable[[], TrainState]
    make_step: Callable[[int], OnMesh]
    rebuild: Callable[[dict[str, Any]], Self]

    @property
    def step(self) -> OnMesh:
        """(state, batch) -> (state, metrics), donating the state; in the micro-batches of the plan."""
        return self.make_step(self.plan.accumulation)

    def with_accumulation(self, number: int) -> Self:
        """Return the stage with another number of micro-batches."""
        plan = dataclasses.replace(self.plan, accumulation=number)
        return dataclasses.replace(self, plan=plan, eval_batch_size=plan.batch_size // number)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return a batch on the devices as ShapeDtypeStructs with shardings."""
        return self.abstract_arrays(self.training_inputs, self.plan.batch_size, self.reader.training_shape)

    @property
    def training_inputs(self) -> tuple[str, ...]:
        """Names of the arrays of a training batch that go to the devices."""
        return self.inputs if self.reader.canvas is None else (*self.inputs, "box")

    @property
    def views(self) -> dict[str, Any]:
        """The options of `make_loader` for the views of an image and their augmentation on the host."""
        return {}

    def loader(self, source: Any, *, batch_size: int, seed: int, **options: Any) -> Loader:
        """Stream training batches, this process's rows only; options: those of `loader.make_loader`."""
        rows, options = self.rows(batch_size), {**self.views, **options}
        options = dict(layout=self.reader.layout, canvas=self.reader.canvas, **options)
        return self.reader.random_crops(source, batch_size=batch_size, seed=seed, rows=rows, **options)

    def to_devices(
        self, batch: Mapping[str, np.ndarray], batch_size: int, names: tuple[str, ...] | None = None
    ) -> dict[str, jax.Array]:
        """See `InferenceStage.to_devices`; of a batch for crops on the devices, the boxes too."""
        names = names or (self.training_inputs if "box" in batch else self.inputs)
        return super().to_devices(batch, batch_size, names)


def stage_fields(
    config: Any,
    plan: StagePlan,
    mesh: jax.sharding.Mesh,
    model: Any,
    reader: ImageReader,
    abstract: TrainState,
    update: Callable,
) -> dict[str, Any]:
    """Return the fields of a `TrainStage` but `create` and `rebuild`; update: see `jit_step`."""
    return dict(
        config=config,
        plan=plan,
        mesh=mesh,
        model=model,
        variables=abstract.eval_variables(),
        reader=reader,
        eval_batch_size=plan.batch_size // plan.accumulation,
        abstract=abstract,
        make_step=cache(partial(jit_step, update, abstract, mesh, reader)),
    )


def jit_step(
    update: Callable, abstract: TrainState, mesh: jax.sharding.Mesh, reader: ImageReader, accumulation: int
) -> OnMesh:
    """Jit (state, batch) -> (state, metrics) for a mesh; the state is donated.

    Args:
      update: `steps.pretrain_step` or `steps.finetune_step` with all options but the accumulation.
      reader: of the batch; with a canvas, the step begins with its crops.
    """

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
        return update(state, reader.crop_training(batch), accumulation=accumulation)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch),
        out_shardings=(shardings, replicated),
        compiler_options=compiler_options(mesh) or None,
    )
    return OnMesh(jitted, mesh, "the training step")


def abstract_state(init: Callable, mesh: jax.sharding.Mesh, run: Any) -> TrainState:
    """Return the state as ShapeDtypeStructs with shardings, see `state.abstract_state`.

    run: `config.run`.

    Raises:
      UserError: the model cannot be built.
    """
    try:
        return state.abstract_state(init, mesh, sharding.optimizer_axes(run.shard_optimizer_state))
    except (ValueError, TypeError) as error:
        raise UserError(f"this config does not build a model: {str(error).splitlines()[0]}") from error


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """Return a copy of a config with other values, {"section.key": value}."""
    changed = copy.deepcopy(config)
    changed.update_from_flattened_dict(values)
    return changed


def update_options(config: Any, plan: StagePlan, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Return the arguments of `steps.update` that all training has, beside the optimizer."""
    axes = sharding.optimizer_axes(config.run.shard_optimizer_state)

    def split(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, sharding.state_shardings(tree, mesh, axes))

    return dict(
        key=run_key(config.seed),
        schedule=schedule(config, plan),
        gradient_dtype=config.optimizer.gradient_dtype,
        split=split if config.run.shard_optimizer_state else lambda tree: tree,
    )


def open_training_data(config: Any) -> Any:
    """Return the source of `config.data`."""
    return open_source(config.data.path, config.data.split)


def cached(source: Any, config: Any, log: Callable[[str], None]) -> Any:
    """Return the training data as `config.data.cache` says: itself, or a copy in memory.

    Raises:
      UserError: it does not fit in memory.
    """
    return cache_in_memory(source, config.run.threads, log) if config.data.get("cache") == "ram" else source


def open_held_out_data(config: Any, log: Callable[[str], None] = lambda text: None) -> Any:
    """Return the source for the held-out loss, or None if the config names none.

    A split that the training data lacks is logged and is no error: configs name one before their data is
    known.
    """
    data = config.data
    if data.eval_path:
        return open_source(data.eval_path, data.eval_split or "train")
    if not data.eval_split:
        return None
    try:
        return open_source(data.path, data.eval_split)
    except UserError as error:
        log(f"no held-out loss: {error}")
        return None


def optimizer_options(optimizer: Any) -> dict[str, Any]:
    """Return the arguments of `make_optimizer` that all training has, from `config.optimizer`."""
    return dict(
        betas=tuple(optimizer.betas),
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )


def schedule(config: Any, plan: StagePlan) -> Callable[[jax.Array], jax.Array]:
    """Return a function from the number of updates done to the learning rate."""
    rate = make_schedule(
        peak=plan.peak_lr,
        floor=plan.min_lr,
        warmup=plan.warmup_epochs,
        total=plan.total_epochs,
        shape=config.schedule.shape,
        decay_epochs=config.schedule.decay_epochs,
        start=plan.warmup_lr,
    )
    return lambda step: rate(plan.epoch(step))
