"""The ridge probe during pre-training: its curve tells which checkpoint is good."""

import dataclasses

import jax

from fastmim_jax.evaluate.inference import backbone_variables, make_inference
from fastmim_jax.evaluate.probe import open_parts, read, ridge_lines
from fastmim_jax.train import sharding
from fastmim_jax.train.loop import Hook

BATCH = 128  # images at once


def open_monitor(config):
    """-> (run, workdir) -> Hook that probes all layers every `config.monitor.epochs`.

    It logs "probe_top1", the accuracy of the layer that is best on held-out training images, "probe_layer",
    its number, and "probe_last_top1" of the last layer.

    Raises:
      UserError: `config.monitor.path` is no labelled data set.
    """
    monitor = config.monitor
    parts, _ = open_parts(config.data, monitor.path, None, 0, monitor.images)
    return lambda run, workdir: _hook(run, parts, monitor.epochs)


def _hook(run, parts, epochs):
    every = max(1, round(epochs * run.plan.steps_per_epoch))
    frozen = make_inference(run.config, {}, BATCH, list(run.mesh.devices.ravel()))
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(frozen.mesh))

    def look(step, state):
        variables = backbone_variables({"params": state.params, **state.collections})
        now = dataclasses.replace(frozen, variables=whole(variables))
        lines = ridge_lines(read(now, parts))
        best = max(lines, key=lambda line: line.held_out)
        last = [line for line in lines if line.layer.startswith(f"{now.layers[-1]} ")]
        return {
            "probe_top1": mean(best.accuracies),
            "probe_layer": 1 + now.layers.index(best.layer.rpartition(" ")[0]),
            "probe_last_top1": max(mean(line.accuracies) for line in last),
        }

    return Hook(every, look)


def mean(numbers):
    """Of a list."""
    return sum(numbers) / len(numbers)
