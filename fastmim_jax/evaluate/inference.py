"""Features of a frozen backbone, of every layer, for probes and for `fastmim features`."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax import plan as plans
from fastmim_jax.build import create_backbone
from fastmim_jax.evaluate.classify import ROWS, map_images
from fastmim_jax.models.base import layer_names, with_identity_norm
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train import sharding
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train.runs import load_run

NO_NORM = "the last layer is normalised without learned factors: a classifier has its norm elsewhere"


class Features(NamedTuple):
    """of: {"layer pooling": (n, D) float32}, such as "block 12 mean". label: (n,), -1 where there is none.
    index: (n,) records. bad: how many more could not be decoded."""

    of: dict
    label: np.ndarray
    index: np.ndarray
    bad: int


@dataclasses.dataclass(frozen=True)
class InferenceStage(train_stage.TrainStage):
    """A backbone that nothing changes.

    encoder: a Flax module. layers: names of its `outputs`, in order.
    variables: of the backbone, on the devices.
    pooled: (variables, batch of a pass) -> {"layer pooling": (B, D), ...} and the batch without its images.
    """

    encoder: Any
    layers: tuple[str, ...]
    variables: dict
    pooled: Any
    notes: tuple[str, ...] = ()  # what a reader of the features should know

    @property
    def poolings(self):
        """What the tokens of a layer are made one of."""
        return ("mean", "cls") if "cls_token" in self.variables["params"] else ("mean",)

    def features(self, source, names=None, records=None, progress=None):
        """Pooled Features of every image of a source.

        Args:
          names: such as "block 12 mean"; None for all.
          records, progress: as of `accuracy.classify`.
        """

        def look(batch):
            found = self.pooled(self.variables, batch)
            return {name: x for name, x in found.items() if not names or name in (*names, *ROWS)}

        columns, bad = map_images(self, look, source, records, progress)
        label, index = columns.pop("label"), columns.pop("index")
        return Features(columns, label, index, bad)

    def tokens(self, variables, images, layer):
        """(B, H, W, C) uint8 images -> (B, N, D) float32 tokens of a layer, cls in front."""
        outputs = _outputs(variables, images, self.encoder, train_stage.prepare(self.config.data))
        tokens, prefix = outputs[self.layers.index(layer)]
        flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
        return jnp.concatenate([prefix, flat], axis=1).astype(jnp.float32)


def _outputs(variables, images, encoder, normalize):
    flip = jnp.zeros(len(images), bool)
    return encoder.apply(variables, normalize(images, flip), method="outputs")


def _pooled(variables, batch, *, encoder, normalize, layers):
    found = {}
    outputs = _outputs(variables, batch["image"], encoder, normalize)
    for layer, (tokens, prefix) in zip(layers, outputs, strict=True):
        found[f"{layer} mean"] = tokens.astype(jnp.float32).mean((1, 2))
        if prefix.shape[1]:
            found[f"{layer} cls"] = prefix[:, 0].astype(jnp.float32)
    return {**found, **{name: x for name, x in batch.items() if name != "image"}}


def open_inference(path, step=None, batch_size=128, devices=None):
    """-> (the checkpoint, `train.saved.LoadedRun`; its backbone, Frozen), pre-trained or fine-tuned.

    Args:
      path, step: as of `train.saved.load_run`.
      batch_size: images at once, over all devices.

    Raises:
      UserError: no checkpoint there.
    """
    saved = load_run(path, step)
    config = at_stage(saved.config, stage_count(saved.config) - 1)
    return saved, make_inference(config, backbone_variables(saved.variables), batch_size, devices)


def backbone_variables(variables):
    """Of the variables of a method or classifier, those of its backbone."""
    return {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}


def make_inference(config, variables, batch_size=128, devices=None):
    """A Frozen from the variables of a backbone, {"params": nested, ...}.

    config: of the run that they come from, in its last stage.
    """
    devices = devices or jax.devices()
    encoder = create_backbone(config.method if "method" in config else config.model)
    mesh = sharding.make_mesh(devices=devices)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "stages" in config:
            del config.stages
    size = -(-batch_size // len(devices)) * len(devices)
    config.schedule.update(batch_size=size, accumulation=1, steps=1)
    config.run.mesh_fsdp = 1
    layers, whole = layer_names(encoder), sharding.replicated(mesh)
    complete = with_identity_norm(variables, encoder, (*config.data.image_size, config.data.channels))
    pooled = partial(_pooled, encoder=encoder, normalize=train_stage.prepare(config.data), layers=layers)
    places = dict(in_shardings=(whole, sharding.batch_sharding(mesh)), out_shardings=whole)
    return InferenceStage(
        config=config,
        plan=plans.make_stage_plan(config, records=size, devices=len(devices)),
        mesh=mesh,
        abstract=None,
        create=None,
        step=None,
        encoder=encoder,
        layers=layers,
        variables=jax.device_put(complete, whole),
        pooled=train_stage.on_mesh(jax.jit(pooled, **places), mesh),
        notes=() if complete is variables else (NO_NORM,),
    )
