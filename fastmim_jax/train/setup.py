"""Everything a run is made of, built from its config; the only place in train/ that reads one."""

import dataclasses
import os
from functools import partial
from typing import Any

import jax

from fastmim_jax import plan as plans
from fastmim_jax.data.device import normalize, statistics
from fastmim_jax.data.loader import make_loader, pick_workers
from fastmim_jax.data.sources import open_source
from fastmim_jax.errors import UserError
from fastmim_jax.mim import create_method
from fastmim_jax.train import sharding, state, steps
from fastmim_jax.train.optimizer import learning_rate, make_optimizer


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of one stage of a run.

    config: with the values of this stage in their places.
    abstract: TrainState of ShapeDtypeStructs with shardings.
    create: () -> the initial TrainState.
    step: (state, batch) -> (state, metrics), donating the state.
    forward, loss: (state, batch, index) -> what `steps` of these names give.
    constant: (state, batch, index, guess) -> as `steps.constant_step`.
    """

    config: Any
    method: Any
    plan: plans.Plan
    mesh: jax.sharding.Mesh
    abstract: state.TrainState
    create: Any
    step: Any
    forward: Any
    loss: Any
    constant: Any

    def loader(self, source, *, batch_size, seed, start=0, workers=0, shuffle=True):
        """Batches of a source with the crops of this config, this process's rows only."""
        data = self.config.data
        return make_loader(
            source,
            image_size=tuple(data.image_size),
            channels=data.channels,
            batch_size=batch_size,
            seed=seed,
            start=start,
            rows=sharding.owned_rows(sharding.batch_sharding(self.mesh), batch_size),
            workers=workers,
            threads=self.config.run.threads,
            scale=tuple(data.crop_scale),
            ratio=tuple(data.crop_ratio),
            shuffle=shuffle,
        )

    def to_devices(self, batch, batch_size):
        """The part of a loader's batch that goes to the devices, as global arrays."""
        wanted = {"image": batch["image"], "flip": batch["flip"]}
        return sharding.to_devices(wanted, sharding.batch_sharding(self.mesh), batch_size)


def build_stages(config, records, devices=None):
    """[Run] of all stages of a config, one if it names none; see `build`."""
    return [build(config, records, devices, stage) for stage in range(plans.stage_count(config))]


def build(config, records, devices=None, stage=0):
    """A Run for a stage of a config and a number of records; nothing is compiled yet.

    Raises:
      UserError: the config cannot work, in one sentence.
    """
    devices = devices or jax.devices()
    whole, config = config, plans.at_stage(config, stage)
    _check_kernel(config.method, devices[0].platform)
    method = create_method(config.method)
    plan = plans.derive(
        whole,
        records=records,
        stride=method.encoder.stride,
        unit=method.target.unit,
        devices=len(devices),
        stage=stage,
        hidden=method.hidden_count,
        groups=method.groups,
    )
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    image_shape = (*config.data.image_size, config.data.channels)
    optimizer_of = partial(make_optimizer, **_optimizer_options(config.optimizer))
    init = state.initializer(method, optimizer_of, image_shape)
    abstract = _abstract(init, mesh)
    shared = dict(method=method, prepare=_prepare(config.data), key=_mask_key(config.seed))
    update = partial(
        steps.pretrain_step,
        optimizer=optimizer_of(abstract.params),
        schedule=_schedule(config, plan),
        accumulation=plan.accumulation,
        **shared,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def compiled(function, *more):
        places = (shardings, batch, whole, *more)
        function = jax.jit(partial(function, **shared), in_shardings=places, out_shardings=whole)
        return _on_mesh(function, mesh)

    return Run(
        config=config,
        method=method,
        plan=plan,
        mesh=mesh,
        abstract=abstract,
        create=lambda: state.create_state(init, abstract, config.seed),
        step=_on_mesh(
            jax.jit(
                update,
                in_shardings=(shardings, batch),
                out_shardings=(shardings, whole),
                donate_argnums=0,
            ),
            mesh,
        ),
        forward=compiled(steps.forward),
        loss=compiled(steps.eval_step),
        constant=compiled(steps.constant_step, whole),
    )


def open_training_data(config):
    """The source of `config.data`."""
    return open_source(config.data.path, config.data.split)


def open_held_out_data(config, say=lambda text: None):
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
        say(f"no held-out loss: {error}")
        return None


def worker_count(run_config):
    """Worker processes that read images."""
    return pick_workers(os.cpu_count() or 1) if run_config.workers < 0 else run_config.workers


def data_statistics(data):
    """(mean, std) of `config.data`, one value per channel."""
    mean, std = statistics(data.channels)
    return tuple(data.mean) or mean, tuple(data.std) or std


def _check_kernel(method, platform):
    if method.kernel == "cudnn" and (platform != "gpu" or method.dtype != "bfloat16"):
        raise UserError(
            f"config.method.kernel=cudnn needs an NVIDIA GPU and bfloat16, here are {platform} and "
            f"{method.dtype}: type --config.method.kernel=xla"
        )


def _prepare(data):
    mean, std = data_statistics(data)
    return partial(normalize, mean=mean, std=std)


def _mask_key(seed):
    return jax.random.fold_in(jax.random.key(seed), 1)  # apart from the key of the parameters


def _optimizer_options(optimizer):
    return dict(
        betas=tuple(optimizer.betas),
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        spared=tuple(optimizer.spared),
    )


def _schedule(config, plan):
    def schedule(step):
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

    return schedule


def _abstract(init, mesh):
    try:
        return state.abstract_state(init, mesh)
    except (ValueError, TypeError) as error:
        raise UserError(f"this config does not build a model: {str(error).splitlines()[0]}") from error


def _on_mesh(function, mesh):
    """Traces and calls a jitted function where the models can see the mesh."""

    def call(*args):
        with jax.set_mesh(mesh):
            return function(*args)

    call.jitted = function
    return call
