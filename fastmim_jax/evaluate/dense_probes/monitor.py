"""The linear segmentation probe during pre-training, whose curve shows what the features know of pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmim_jax.evaluate.dense_probes import linear
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial, open_segmentation
from fastmim_jax.evaluate.dense_probes.patch_features import COLORS, PatchFeatures, choose_layers
from fastmim_jax.evaluate.dense_probes.whole_images import WholeImages
from fastmim_jax.evaluate.monitor import make_backbone_of
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.pretrain import PretrainStage
from fastmim_jax.train.state import TrainState

STEPS = 200  # of 16 images: the order of checkpoints shows long before a head is trained to the end


def open_dense_monitor(config: Any) -> Callable[[PretrainStage, Path], Hook]:
    """Return a function (stage, workdir) -> Hook that probes four layers every `config.monitor.epochs`.

    The hook logs "dense_miou", the mIoU of the layer that is best on the images to choose by,
    "dense_layer", its number among all layers, "dense_last_miou" of the last layer, and
    "dense_colours_miou" of the same head on mean colours.

    Raises:
      UserError: `config.monitor.masks` holds no images with masks, or masks that cannot be used.
    """
    monitor = config.monitor
    material = open_segmentation(monitor.masks, None, monitor.images)
    return lambda stage, workdir: _hook(stage, material, monitor.epochs)


def _hook(stage: PretrainStage, material: DenseMaterial, epochs: float) -> Hook:
    backbone_of = make_backbone_of(stage)
    features: PatchFeatures | None = None  # built at the first probe, compiled once

    def probe(step: int, state: TrainState) -> dict[str, float]:
        nonlocal features
        backbone = backbone_of(state)
        if features is None:
            features = PatchFeatures(backbone, choose_layers(backbone.layers))
        features.stage = backbone
        trained = linear.train(features, material, STEPS)
        scored, _ = linear.score_layers(WholeImages(features), material, trained)
        lines = {line.layer: line for line in scored}
        colors = lines.pop(COLORS)
        best = max(lines.values(), key=lambda line: line.held_out)
        return {
            "dense_miou": best.scores["mIoU"],
            "dense_layer": 1 + backbone.layers.index(best.layer),
            "dense_last_miou": lines[backbone.layers[-1]].scores["mIoU"],
            "dense_colours_miou": colors.scores["mIoU"],
        }

    return Hook(max(1, round(epochs * stage.plan.steps_per_epoch)), probe)
