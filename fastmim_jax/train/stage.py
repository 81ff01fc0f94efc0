"""Everything a run is made of, built from its config; the only place in train/ that reads one."""

import dataclasses
import os
from functools import partial
from typing import Any

import jax

from fastmim_jax import plan as plans
from fastmim_jax.build import create_method
from fastmim_jax.data.device import channel_statistics, normalize
from fastmim_jax.data.loader import make_loader, pick_workers
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train import sharding, state, steps
from fastmim_jax.train.optimizer import learning_rate, make_optimizer
from fastmim_jax.train.warm_start import warm_start


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """The parts of one stage of any training.

    config: with the values of this stage in their places.
    plan: its Course.
    abstract: TrainState of ShapeDtypeStructs with shardings.
    create: () -> the initial TrainState.
    step: (state, batch) -> (state, metrics), donating the state.
    """

    config: Any
    plan: plans.StagePlan
    mesh: jax.sharding.Mesh
    abstract: state.TrainState
    create: Any
    step: Any

    inputs = ("image", "flip")  # what goes to the devices of a loader's batch

    def loader(self, source, *, batch_size, seed, start=0, workers=0, shuffle=True, **augmentation):
        """Batches of a source with the crops of this config, this process's rows only."""
        data = self.config.data
        return make_loader(
            source,
            image_size=tuple(data.image_size),
            channels=data.channels,
            batch_size=batch_size,
            seed=seed,
            start=start,
            rows=self.rows(batch_size),
            workers=workers,
            threads=self.config.run.threads,
            scale=tuple(data.crop_scale),
            ratio=tuple(data.crop_ratio),
            shuffle=shuffle,
            **augmentation,
        )

    def rows(self, batch_size):
        """Those of a batch that this process feeds."""
        return sharding.owned_rows(sharding.batch_sharding(self.mesh), batch_size)

    def to_devices(self, batch, batch_size, names=None):
        """The part of a loader's batch that goes to the devices, as global arrays."""
        wanted = {name: batch[name] for name in names or self.inputs}
        return sharding.to_devices(wanted, sharding.batch_sharding(self.mesh), batch_size)


@dataclasses.dataclass(frozen=True)
class PretrainStage(TrainStage):
    """One stage of pre-training.

    forward, loss: (state, batch, index) -> what `steps` of these names give.
    constant: (state, batch, index, guess) -> as `steps.constant_step`.
    """

    method: Any
    forward: Any
    loss: Any
    constant: Any


def build_stages(config, records, devices=None, saved=None):
    """[Run] of all stages of a config, one if it names none; see `build`."""
    return [build(config, records, devices, stage, saved) for stage in range(stage_count(config))]


def build(config, records, devices=None, stage=0, saved=None):
    """A Run for a stage of a config and a number of records; nothing is compiled yet.

    saved: `train.saved.LoadedRun` to start from, or None.

    Raises:
      UserError: the config cannot work, in one sentence.
    """
    devices = devices or jax.devices()
    whole, config = config, at_stage(config, stage)
    check_kernel("method", config.method, devices[0].platform)
    method = create_method(config.method)
    plan = plans.make_pretrain_plan(
        whole,
        records=records,
        stride=method.encoder.stride,
        unit=method.target.unit,
        devices=len(devices),
        stage=stage,
        num_masked=method.num_masked,
        groups=method.groups,
    )
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    optimizer_of = partial(make_optimizer, **optimizer_options(config.optimizer))
    optimizer_of = partial(optimizer_of, no_decay=tuple(config.optimizer.no_decay))
    init = state.initializer(method, optimizer_of, (*config.data.image_size, config.data.channels))
    abstract = abstract_state(init, mesh)
    shared = dict(method=method, prepare=prepare(config.data), key=run_key(config.seed))
    update = partial(
        steps.pretrain_step,
        optimizer=optimizer_of(abstract.params),
        schedule=schedule(config, plan),
        accumulation=plan.accumulation,
        **shared,
    )
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def create():
        begun = state.create_state(init, abstract, config.seed)
        return begun if saved is None else warm_start(saved.variables, begun, optimizer_of, abstract)

    def compiled(function, *more):
        return compile_eval(partial(function, **shared), abstract, mesh, batch, whole, *more)

    return PretrainStage(
        config=config,
        method=method,
        plan=plan,
        mesh=mesh,
        abstract=abstract,
        create=create,
        step=compile_step(update, abstract, mesh),
        forward=compiled(steps.forward),
        loss=compiled(steps.eval_step),
        constant=compiled(steps.constant_step, whole),
    )


def compile_step(update, abstract, mesh):
    """(state, batch) -> (state, metrics), jitted for a mesh; the state is donated."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    places = dict(in_shardings=(shardings, batch), out_shardings=(shardings, whole))
    return on_mesh(jax.jit(update, donate_argnums=0, **places), mesh)


def compile_eval(function, abstract, mesh, *places):
    """(state, ...) -> what all devices hold whole, jitted for a mesh.

    abstract: of the first argument, a tree with shardings. places: shardings of the others.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    places = dict(in_shardings=(shardings, *places), out_shardings=sharding.replicated(mesh))
    return on_mesh(jax.jit(function, **places), mesh)


def open_training_data(config):
    """The source of `config.data`."""
    return open_source(config.data.path, config.data.split)


def open_held_out_data(config, log=lambda text: None):
    """The source for the held-out loss, or None if the config names none.

    A split that the training data turns out not to have is no error, but is said: a config may ask
    for it before it is known what it will be trained on.
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


def worker_count(run_config):
    """Worker processes that read images."""
    return pick_workers(os.cpu_count() or 1) if run_config.workers < 0 else run_config.workers


def data_statistics(data):
    """(mean, std) of `config.data`, one value per channel."""
    mean, std = channel_statistics(data.channels)
    return tuple(data.mean) or mean, tuple(data.std) or std


def check_kernel(section, computing, platform):
    """Raises UserError if the kernel of `config.method` or `config.model` does not run here."""
    if computing.kernel == "cudnn" and (platform != "gpu" or computing.dtype != "bfloat16"):
        raise UserError(
            f"config.{section}.kernel=cudnn needs an NVIDIA GPU and bfloat16, here are {platform} and "
            f"{computing.dtype}: type --config.{section}.kernel=xla"
        )


def prepare(data):
    """(image, flip) -> normalised images, by the statistics of `config.data`."""
    mean, std = data_statistics(data)
    return partial(normalize, mean=mean, std=std)


def run_key(seed):
    """The random key of everything but the initial parameters."""
    return jax.random.fold_in(jax.random.key(seed), 1)  # apart from the key of the parameters


def optimizer_options(optimizer):
    """What any training tells `make_optimizer`."""
    return dict(
        betas=tuple(optimizer.betas),
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )


def schedule(config, plan):
    """Updates done -> learning rate."""

    def rate(step):
        return learning_rate(
            plan.epoch(step),
            peak=plan.peak_lr,
            floor=plan.min_lr,
            warmup=plan.warmup_epochs,
            total=plan.total_epochs,
            shape=config.schedule.shape,
            decay_epochs=config.schedule.decay_epochs,
            start=plan.warmup_lr,
        )

    return rate


def abstract_state(init, mesh):
    """As `state.abstract_state`.

    Raises:
      UserError: the model cannot be built.
    """
    try:
        return state.abstract_state(init, mesh)
    except (ValueError, TypeError) as error:
        raise UserError(f"this config does not build a model: {str(error).splitlines()[0]}") from error


def on_mesh(function, mesh):
    """Traces and calls a jitted function where the models can see the mesh."""

    def call(*args):
        with jax.set_mesh(mesh):
            return function(*args)

    call.jitted = function
    return call
