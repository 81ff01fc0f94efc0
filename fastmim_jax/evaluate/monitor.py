"""The ridge probe during pre-training, whose curve shows which checkpoint is good."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fastmim_jax.evaluate.backbone import BackboneStage, backbone_variables, make_backbone_stage
from fastmim_jax.evaluate.probe import Images, extract, open_parts, ridge_lines
from fastmim_jax.train import sharding
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.pretrain import PretrainStage
from fastmim_jax.train.state import TrainState

BATCH_SIZE = 128


def open_monitor(config: Any) -> Callable[[PretrainStage, Path], Hook]:
    """Return a function (stage, workdir) -> Hook that probes all layers every `config.monitor.epochs`.

    The hook logs "probe_top1", the accuracy of the layer that is best on held-out training images,
    "probe_layer", its number, and "probe_last_top1" of the last layer.

    Raises:
      UserError: `config.monitor.path` is no labelled data set.
    """
    monitor = config.monitor
    parts, _ = open_parts(config.data, monitor.path, None, 0, monitor.images)
    return lambda stage, workdir: _hook(stage, parts, monitor.epochs)


def _hook(stage: PretrainStage, parts: list[tuple[Images, Images]], epochs: float) -> Hook:
    every = max(1, round(epochs * stage.plan.steps_per_epoch))
    backbone_of = make_backbone_of(stage)

    def probe(step: int, state: TrainState) -> dict[str, float]:
        backbone = backbone_of(state)
        lines = ridge_lines(extract(backbone, parts))
        best = max(lines, key=lambda line: line.held_out)
        layers, layer_of = backbone.layers, backbone.layer_of
        last = [line for line in lines if layer_of[line.layer] == layers[-1]]
        return {
            "probe_top1": mean(best.accuracies),
            "probe_layer": 1 + layers.index(layer_of[best.layer]),
            "probe_last_top1": max(mean(line.accuracies) for line in last),
        }

    return Hook(every, probe)


def make_backbone_of(stage: PretrainStage) -> Callable[[TrainState], BackboneStage]:
    """Return a function state -> the backbone with its parameters; it is compiled once."""
    devices = list(stage.mesh.devices.ravel())
    replicate = jax.jit(
        lambda tree: tree, out_shardings=sharding.replicated(sharding.make_mesh(devices=devices))
    )
    backbone: BackboneStage | None = None  # built at the first call

    def backbone_of(state: TrainState) -> BackboneStage:
        nonlocal backbone
        variables = replicate(backbone_variables(state.eval_variables()))
        if backbone is None:
            encoder, reader = stage.model.encoder, stage.reader
            size = min(BATCH_SIZE, stage.eval_batch_size)  # as many as a training step computes at a time
            backbone = make_backbone_stage(encoder, variables, reader, size, devices)
        else:
            backbone = dataclasses.replace(backbone, variables=variables)
        return backbone

    return backbone_of


def mean(numbers: list[float]) -> float:
    """Return the mean of a list."""
    return sum(numbers) / len(numbers)
