"""Features of a backbone whose parameters do not change, layer by layer."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.build import create_backbone, create_reader
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.models.base import Backbone, EncoderOutput, with_identity_norm
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train import sharding
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.inference import ROWS, InferenceStage, compile_eval, round_up
from fastmim_jax.train.runs import LoadedRun, load_run

NO_NORM = "the last layer is normalised without learned factors: a classifier has its norm elsewhere"


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of n images.

    Attributes:
      of: {"layer pooling": (n, D) float32}, such as "block 12 mean".
      label: (n,), -1 where there is none.
      index: (n,) record numbers.
      bad: number of further images that could not be decoded.
    """

    of: dict[str, np.ndarray]
    label: np.ndarray
    index: np.ndarray
    bad: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BackboneStage(InferenceStage):
    """A backbone.

    Attributes:
      layers: names of its `outputs`, in order.
      pooled: (variables, batch of ROWS) -> {"layer pooling": (B, D), ...} and the batch without its images.
      notes: remarks for a reader of the features.
    """

    model: Backbone
    layers: tuple[str, ...]
    pooled: OnMesh
    notes: tuple[str, ...] = ()

    @property
    def poolings(self) -> tuple[str, ...]:
        """Ways in which the tokens of a layer become one vector."""
        return ("mean", "cls") if "cls_token" in self.variables["params"] else ("mean",)

    @property
    def layer_of(self) -> dict[str, str]:
        """{"layer pooling": layer} of all features, in order."""
        return {f"{layer} {pooling}": layer for layer in self.layers for pooling in self.poolings}

    def features(
        self,
        source: Any,
        names: Sequence[str] | None = None,
        records: np.ndarray | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Features:
        """Return pooled features of every image of a source.

        Args:
          names: such as "block 12 mean"; None for all.
          source, records, progress: see `InferenceStage.map_images`.
        """

        def selected(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            columns = self.pooled(self.variables, batch)
            return {name: x for name, x in columns.items() if not names or name in (*names, *ROWS)}

        columns, bad = self.map_images(selected, source, records, progress)
        label, index = columns.pop("label"), columns.pop("index")
        return Features(columns, label, index, bad)

    def tokens(self, variables: dict, images: jax.Array, layer: str) -> jax.Array:
        """Return (B, N, D) float32 tokens of a layer, cls in front, of (B, H, W, C) pixels."""
        outputs = layer_outputs(variables, images, self.model, self.reader.normalize)
        tokens, prefix = outputs[self.layers.index(layer)]
        flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
        return jnp.concatenate([prefix, flat], axis=1).astype(jnp.float32)


def open_backbone(
    path: str | Path,
    step: int | None = None,
    batch_size: int = 128,
    devices: list | None = None,
    settings: Sequence[str] = (),
) -> tuple[LoadedRun, BackboneStage]:
    """Open a checkpoint, pre-trained or fine-tuned, with its backbone.

    Args:
      path, step, settings: see `runs.load_run`.
      batch_size: images at once, over all devices; rounded up to a multiple of their number.
      devices: None for all.

    Raises:
      UserError: no checkpoint there.
    """
    loaded = load_run(path, step, devices, settings)
    return loaded, backbone_stage(loaded, batch_size, devices)


def backbone_stage(loaded: LoadedRun, batch_size: int = 128, devices: list | None = None) -> BackboneStage:
    """Return the backbone of a loaded checkpoint; arguments: see `open_backbone`."""
    config = at_stage(loaded.config, stage_count(loaded.config) - 1)
    encoder = create_backbone(config.method if "method" in config else config.model)
    variables = backbone_variables(loaded.variables)
    return make_backbone_stage(encoder, variables, create_reader(config), batch_size, devices)


def backbone_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of the backbone of a method or classifier."""
    return {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}


def make_backbone_stage(
    encoder: Backbone,
    variables: dict[str, Any],
    reader: ImageReader,
    batch_size: int = 128,
    devices: list | None = None,
) -> BackboneStage:
    """Return the stage of a backbone; variables: {"params": nested, ...} of arrays.

    A backbone without a final norm, as of some classifiers, gets one without learned factors.
    """
    devices = devices or jax.devices()
    mesh, layers = sharding.make_mesh(devices=devices), encoder.layer_names
    complete = with_identity_norm(variables, encoder, reader.image_shape)
    on_devices = jax.device_put(complete, sharding.replicated(mesh))
    pool = partial(_pool, encoder=encoder, normalize=reader.normalize, layers=layers)
    return BackboneStage(
        mesh=mesh,
        model=encoder,
        variables=on_devices,
        reader=reader,
        eval_batch_size=round_up(batch_size, len(devices)),
        layers=layers,
        pooled=compile_eval("the backbone", pool, on_devices, mesh, sharding.batch_sharding(mesh)),
        notes=() if complete is variables else (NO_NORM,),
    )


def feature_program(stage: BackboneStage, names: Sequence[str]) -> OnMesh:
    """Return (variables, batch of ROWS) -> {name: array} and the batch without its images, compiled.

    names: "LAYER POOLING", such as "block 12 mean" (B, D) or "block 12 patches" (B, h, w, D).
    """
    pool = partial(
        _pool,
        encoder=stage.model,
        normalize=stage.reader.normalize,
        layers=stage.layers,
        names=tuple(names),
    )
    return compile_eval(
        "the backbone", pool, stage.variables, stage.mesh, sharding.batch_sharding(stage.mesh)
    )


def layer_outputs(
    variables: dict, images: jax.Array, encoder: Backbone, normalize: Callable
) -> Sequence[EncoderOutput]:
    """Return the tokens after each layer of a backbone for (B, H, W, C) pixels."""
    flip = jnp.zeros(len(images), bool)
    outputs = encoder.apply(variables, normalize(images, flip), method="outputs")
    return cast(Sequence[EncoderOutput], outputs)


def _pool(
    variables: dict,
    batch: dict[str, jax.Array],
    *,
    encoder: Backbone,
    normalize: Callable,
    layers: tuple[str, ...],
    names: tuple[str, ...] = (),
) -> dict[str, jax.Array]:
    """Return the features called `names`; () for all that are pooled."""
    columns = {}
    outputs = layer_outputs(variables, batch["image"], encoder, normalize)
    for layer, output in zip(layers, outputs, strict=True):
        patches = output.tokens.astype(jnp.float32)
        columns[f"{layer} mean"] = patches.mean((1, 2))
        if output.prefix.shape[1]:
            columns[f"{layer} cls"] = output.cls.astype(jnp.float32)
        if f"{layer} patches" in names:
            columns[f"{layer} patches"] = patches
    columns = {name: columns[name] for name in names} if names else columns
    return {**columns, **{name: x for name, x in batch.items() if name != "image"}}
