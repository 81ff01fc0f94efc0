"""A loaded model: features, predictions, reconstructions, and export."""

import dataclasses
import os
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.api.given_images import open_images
from fastmim_jax.api.results import ImageFeatures, ImagePredictions, Reconstructions
from fastmim_jax.api.spelling import python_errors
from fastmim_jax.errors import UserError, did_you_mean
from fastmim_jax.evaluate.backbone import BackboneStage, backbone_stage, feature_program
from fastmim_jax.evaluate.classify import classify
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.convert import Options, convert, is_ours, open_source
from fastmim_jax.paths import local_path
from fastmim_jax.paths import place as resolve_place
from fastmim_jax.saved_config import kind_of
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.start_jax import start_jax
from fastmim_jax.tools.reconstruct import central_crops, reconstruct_images
from fastmim_jax.train import sharding
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.eval_memory import fit_eval_batch
from fastmim_jax.train.inference import (
    ClassifierStage,
    InferenceStage,
    MethodStage,
    classifier_stage,
    method_stage,
)
from fastmim_jax.train.metrics import ProgressCounter
from fastmim_jax.train.remote.reading import local_run
from fastmim_jax.train.runs import LoadedRun, count_outputs, load_run, read_classes

PATCHES = "patches"  # pooling: none, the grid of all patch tokens
ARRAY_FILES = ("*.safetensors", "*.pth", "*.bin", "*.index.json")


@python_errors
def load(path: str | os.PathLike, *, step: int | None = None, batch_size: int = 32) -> "Model":
    """Load a model: of a run, one of its checkpoints, or a published file of another library.

    Args:
      path: what `pretrain` or `finetune` returned, DIR/checkpoints/1000, a folder that `fastmim convert`
        wrote, or a file or folder that it reads, such as mae_pretrain_vit_base.pth; or the address of one.
      step: of the checkpoint; None for the best one, or else the newest.
      batch_size: images that are computed at once, over all devices.

    Raises:
      UserError: no model there, or one that cannot be read.
    """
    start_jax()
    place = Path(local_run(resolve_place(path), step))
    if is_ours(place) or not _holds_arrays(place):
        loaded = load_run(place, step)
        class_file = loaded.workdir / "classes.json"
        classes = (
            read_classes(loaded.workdir, count_outputs(loaded.variables))
            if class_file.exists() and kind_of(loaded.config) == "finetune"  # not those of pixels
            else ()
        )
        return Model(loaded, classes, batch_size)
    bundle, _ = open_source(place)
    variables = jax.device_put(bundle.variables, sharding.replicated(sharding.make_mesh()))
    return Model(LoadedRun(place, place, bundle.config, 0, 0, variables), bundle.classes, batch_size)


class Model:
    """A pre-trained or fine-tuned model on the devices.

    Attributes:
      path: of its checkpoint or file.
      config: of its run, a ConfigDict.
      step: of the checkpoint.
      classes: their names; () without a head.
      variables: {"params": nested, ...} of its Flax module.
    """

    def __init__(self, loaded: LoadedRun, classes: Sequence[str], batch_size: int):
        self.path, self.step, self.variables = loaded.path, loaded.step, loaded.variables
        self.config: ConfigDict = at_stage(loaded.config, stage_count(loaded.config) - 1)
        self.classes = tuple(classes)
        self._loaded, self._batch_size = loaded, batch_size
        self._programs: dict[tuple[str, ...], OnMesh] = {}

    def __repr__(self) -> str:
        bundle = ModelBundle(self.config, {}, self.classes)
        return f"Model({bundle.description}, step {self.step:,} of {self.path})"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that images are resized and cropped to."""
        return self._backbone.reader.image_size

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose features can be taken, in order: ("block 1", ...)."""
        return self._backbone.layers

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names for `pool` of `features`: "mean" over the patches, "cls" if there is one, "patches"."""
        return (*self._backbone.poolings, PATCHES)

    @python_errors
    def features(
        self,
        images: Any,
        *,
        layer: str | int | Sequence[str | int] = -1,
        pool: str | Sequence[str] = "mean",
    ) -> ImageFeatures:
        """Return frozen features of images, in batches; all batches run one compiled program.

        Args:
          images: the path of a folder, data set or image; an array (n, H, W, C) or (H, W, C), uint8 or
            floating point in [0, 1]; a Pillow image; or a list of paths, Pillow images and arrays. They are
            resized and cropped as in evaluation.
          layer: name or number of a layer, see `layers`; or several.
          pool: one of `poolings`, or several: "mean" (n, D), "cls" (n, D), "patches" (n, h, w, D).

        Raises:
          UserError: no images, no such layer, or no such pooling.
        """
        stage = self._backbone
        layers, pools = self._layers(layer), self._pools(pool)
        names = tuple(f"{one} {kind}" for one in layers for kind in pools)
        if names not in self._programs:
            self._programs[names] = feature_program(stage, names)
        program = self._programs[names]
        source = self._open(images, stage)
        stage = fit_eval_batch(_in_process(stage, source, images), program, len(source), print)
        with ProgressCounter("images") as progress:
            columns, _ = stage.map_images(partial(program, stage.variables), source, progress=progress.show)
        label, index = columns.pop("label"), columns.pop("index")
        return ImageFeatures(
            names=[source.name(int(number)) for number in index],
            labels=label,
            classes=tuple(source.classes),
            arrays={name: columns[name] for name in names},
            undecodable=_missing(source, index),
        )

    @python_errors
    def predict(self, images: Any) -> ImagePredictions:
        """Return the likeliest classes of images; images: see `features`.

        Raises:
          UserError: a model without classes, or no images.
        """
        stage = self._classifier
        source = self._open(images, stage)
        stage = fit_eval_batch(_in_process(stage, source, images), stage.classify, len(source), print)
        with ProgressCounter("images") as progress:
            found = classify(stage, stage.variables, source, progress=progress.show)
        return ImagePredictions(
            names=[source.name(int(number)) for number in found.index],
            labels=found.label,
            true=np.array([*source.classes, ""], dtype=object)[found.label],  # -1 for none
            classes=np.asarray(self.classes, dtype=object)[found.best],
            probabilities=found.probability,
            undecodable=_missing(source, found.index),
        )

    @python_errors
    def reconstruct(self, images: Any, *, count: int = 6) -> Reconstructions:
        """Mask images and return what the model predicts; images: see `features`.

        Args:
          count: images at most, from the first on; they are computed at once.

        Raises:
          UserError: a model without a pre-training method, or no images.
        """
        stage = central_crops(self._method)
        source = self._open(images, stage)
        count = min(count, len(source))
        output, normalized = reconstruct_images(stage, source, count)
        return Reconstructions.from_output(stage, output, normalized, self.step, count)

    @python_errors
    def save(
        self,
        path: str | os.PathLike,
        *,
        to: str = "",
        encoder_only: bool = False,
        image_size: tuple[int, int] | None = None,
        overwrite: bool = False,
        log: Any = print,
    ) -> Path:
        """Export the model, as `fastmim convert` does.

        Args:
          path: a folder; or a file that ends in .pth or .safetensors.
          to: "timm", "hf", "torchvision", "mmpretrain", "mmdet", "mmseg", "detectron2", "keras_hub",
            "stablehlo" or "onnx"; "" for the names of the published code (a file) or a work directory (a
            folder).
          encoder_only: leave out the decoder or head.
          image_size: (height, width) to resample positions to.
          overwrite: replace an earlier export.

        Returns:
          The path.

        Raises:
          UserError: the destination cannot be written or cannot hold the model.
        """
        options = Options(to=to, encoder_only=encoder_only, image_size=image_size, overwrite=overwrite)
        convert(self.path, Path(local_path(path)), options, log)
        return Path(local_path(path))

    @cached_property
    def _backbone(self) -> BackboneStage:
        return backbone_stage(self._loaded, self._batch_size)

    @cached_property
    def _classifier(self) -> ClassifierStage:
        if not self.classes:
            raise UserError(
                f"{self.path} has no classes to predict: call fastmim_jax.finetune(data, out, init=model) "
                "and load what it returns"
            )
        return classifier_stage(self._loaded, self.classes, batch_size=self._batch_size)

    @cached_property
    def _method(self) -> MethodStage:
        return method_stage(self._loaded, batch_size=self._batch_size, devices=jax.local_devices()[:1])

    def _open(self, images: Any, stage: InferenceStage) -> Any:
        return open_images(images, stage.reader.channels, stage.reader.rules)

    def _layers(self, layer: Any) -> list[str]:
        wanted = [layer] if isinstance(layer, str | int) else list(layer)
        names: dict[Any, str] = {name: name for name in self.layers}
        names |= {number: name for number, name in enumerate(self.layers)}
        names |= {number - len(self.layers): name for number, name in enumerate(self.layers)}
        wrong = [one for one in wanted if one not in names]
        if wrong:
            hint = did_you_mean(str(wrong[0]), self.layers)
            raise UserError(
                f"no layer {wrong[0]!r}{hint}; choose from: {', '.join(self.layers)}, or -1, -2, ..."
            )
        return [names[one] for one in wanted]

    def _pools(self, pool: Any) -> list[str]:
        pools = [pool] if isinstance(pool, str) else list(pool)
        wrong = [one for one in pools if one not in self.poolings]
        if wrong:
            raise UserError(f"no pool {wrong[0]!r}; choose from: {', '.join(self.poolings)}")
        return pools


def _holds_arrays(path: Path) -> bool:
    return path.is_file() or any(next(path.glob(pattern), None) for pattern in ARRAY_FILES)


def _in_process(stage: Any, source: Any, images: Any) -> Any:
    """Return a stage that reads images in memory without worker processes, which would copy them."""
    if isinstance(images, str | os.PathLike):
        return stage
    return dataclasses.replace(stage, reader=dataclasses.replace(stage.reader, workers=0))


def _missing(source: Any, index: np.ndarray) -> list[str]:
    """Return the names of the images that could not be decoded."""
    missing = sorted(set(range(len(source))) - {int(number) for number in index})
    names = [source.name(number) for number in missing]
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"{len(names):,} image{'s' * (len(names) != 1)} could not be decoded, left out: {shown}")
    return names
