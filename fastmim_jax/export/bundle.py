"""A model between two formats: its variables and the config that builds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.build import create_backbone, create_classifier, create_method
from fastmim_jax.config import finetune_config
from fastmim_jax.errors import FormatMismatch, UserError
from fastmim_jax.io import write_json, write_text
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.positions import resampled_positions
from fastmim_jax.models.zoo import create_model
from fastmim_jax.saved_config import kind_of
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.runs import count_outputs, load_run, read_classes
from fastmim_jax.train.state import TrainState
from fastmim_jax.train.transfer import TransferReport, modules, transfer
from fastmim_jax.validate.names import count

# Attributes of backbones that tell models of the table apart.
SIZES = (
    "patch_size",
    "stem_width",
    "width",
    "widths",
    "depth",
    "depths",
    "heads",
    "mlp_ratio",
    "mlp_ratios",
)
TOLERANCE = 1e-5  # between sine-cosine tables that were rounded to float32 in different ways
CLS_TABLE = "pos_embed_cls"  # the entry of the cls token, in the tables of published files


class ModelBundle(NamedTuple):
    """A model with everything that a conversion needs.

    Attributes:
      config: of one stage of pre-training; or of fine-tuning, for a classifier or a bare backbone.
      variables: {"params": nested, ...}, NumPy arrays.
      classes: their names; () without a head.
      origin: the file or checkpoint that it was read from, for messages.
      workdir: the work directory of its run, if any.
      format: name of the format that it was read in; "" for a run of ours.
      step: of the checkpoint of a run.
    """

    config: ConfigDict
    variables: dict[str, Any]
    classes: tuple[str, ...] = ()
    origin: str = ""
    workdir: Path | None = None
    format: str = ""
    step: int | None = None

    @property
    def kind(self) -> str:
        """Name of the method, or "classifier"; see `rules.Format`."""
        return self.config.method.name if "method" in self.config else "classifier"

    @property
    def section(self) -> ConfigDict:
        """The config section with the backbone, `method` or `model`."""
        return self.config.method if "method" in self.config else self.config.model

    @property
    def encoder(self) -> Backbone:
        """The backbone."""
        return create_backbone(self.section)

    @property
    def family(self) -> str:
        """Family of the backbone; see `rules.Format`."""
        return self.encoder.family

    @property
    def pooling(self) -> str | None:
        """Name of the classifier's pooling; None without a head."""
        return (self.section.pooling or self.encoder.pooling) if self.classes else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (*self.config.data.image_size, self.config.data.channels)

    @property
    def description(self) -> str:
        """Name, kind and image shape, such as "vit_b16 (mae), 224 x 224 pixels, 3 channels"."""
        height, width, channels = self.image_shape
        kind = self.kind
        if kind == "classifier":
            classes = f"{count(len(self.classes), 'class', 'classes')}, {self.pooling}"
            kind = classes if self.classes else "a bare backbone"
        size = f"{height} x {width} pixels, {count(channels, 'channel')}"
        return f"{self.backbone_name} ({kind}), {size}"

    @property
    def backbone_name(self) -> str:
        """Name in the model table; for other sizes the family and its sizes."""
        encoder, entry = self.encoder, create_model(self.section.backbone.name)
        sizes = {key: getattr(encoder, key) for key in SIZES if hasattr(encoder, key)}
        if all(getattr(entry, key) == x for key, x in sizes.items()):
            return self.section.backbone.name
        values = {key: "/".join(map(str, x)) if isinstance(x, tuple) else x for key, x in sizes.items()}
        return f"{encoder.family} with " + ", ".join(f"{key} {x}" for key, x in values.items())

    def network(self) -> "nn.Module | BareBackbone":
        """Return the module that the variables belong to: a method, a classifier or a bare backbone."""
        if self.kind != "classifier":
            return create_method(self.config.method)
        if self.classes:
            return create_classifier(self.config.model, len(self.classes))
        return BareBackbone(self.encoder)

    def shapes(self) -> dict[str, Any]:
        """Return the variables of the network as ShapeDtypeStructs; nothing is computed.

        Raises:
          FormatMismatch: sizes of the config contradict one another.
        """
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
        try:
            return jax.eval_shape(self.network().init, keys, images)
        except UserError as error:
            raise FormatMismatch(str(error)) from error
        except (ValueError, TypeError) as error:  # how JAX reports shapes that do not match
            raise FormatMismatch(
                f"these sizes make no model ({str(error).splitlines()[0]}): give the sizes that the arrays "
                "do not determine, such as --set=method.backbone.heads=6, or model.backbone.heads of a "
                "classifier"
            ) from error


class BareBackbone(NamedTuple):
    """A backbone whose variables have the names that they have inside a classifier."""

    encoder: Backbone

    def init(self, keys: Mapping[str, jax.Array], images: jax.Array) -> dict[str, Any]:
        """Return initial variables, as `flax.linen.Module.init` does."""
        variables = self.encoder.init(dict(keys), images)
        return {name: {"encoder": tree} for name, tree in variables.items()}


def open_bundle(path: str | Path, step: int | None = None) -> ModelBundle:
    """Open a work directory or one of its checkpoints; of a segmentation its backbone alone.

    Args:
      step: of the checkpoint; None for the newest.

    Raises:
      UserError: there is no checkpoint.
    """
    run = load_run(path, step)
    config = at_stage(run.config, stage_count(run.config) - 1)
    outputs = count_outputs(run.variables)
    classes = read_classes(run.workdir, outputs) if (run.workdir / "classes.json").exists() else ()
    origin, variables = f"{run.path}, step {run.step:,}", jax.device_get(run.variables)
    if kind_of(config) == "segment":  # no format has its heads
        return backbone_only(ModelBundle(config, variables, (), origin, run.workdir, step=run.step))
    return ModelBundle(config, variables, classes, origin, run.workdir, step=run.step)


def write_workdir(bundle: ModelBundle, folder: str | Path, conversion: Mapping[str, Any]) -> None:
    """Write a work directory, for `config.init` and every command except those that resume training.

    Args:
      conversion: content of conversion.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    zero = jnp.zeros((), jnp.int32)
    params = bundle.variables["params"]
    rest = {name: tree for name, tree in bundle.variables.items() if name != "params"}
    state = jax.tree.map(jnp.asarray, TrainState(zero, params, rest, {}, zero, zero))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, state, {"records": 0, "stage": 0, "config": {}}, items=("params",))
        checkpoints.check_saved()
    write_text(folder / "config.json", bundle.config.to_json(indent=2) + "\n")
    if bundle.classes:
        write_json(folder / "classes.json", list(bundle.classes), indent=0)
    write_json(folder / "conversion.json", conversion)


def resize(bundle: ModelBundle, image_size: tuple[int, int]) -> tuple[ModelBundle, TransferReport]:
    """Return the model for images of another (height, width), and what was resampled.

    Raises:
      UserError: one of its tables cannot be resampled.
    """
    config = bundle.config.copy_and_resolve_references()
    config.data.image_size = tuple(image_size)
    resized = bundle._replace(config=config)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), resized.shapes())
    variables, report = transfer(bundle.variables, zeros, bundle.encoder.resampling)
    if report.fresh:
        raise UserError(
            f"{', '.join(modules(report.fresh))} cannot be resampled to {image_size[0]} x {image_size[1]} "
            "pixels: leave --image_size out"
        )
    return resized._replace(variables=jax.device_get(variables)), report


def backbone_only(bundle: ModelBundle) -> ModelBundle:
    """Return the bare backbone of a model; the norm of its pooling becomes its last norm if it has none."""
    config = finetune_config()
    config.data = bundle.config.data if kind_of(bundle.config) == "finetune" else config.data
    config.data.update({key: bundle.config.data[key] for key in ("image_size", "channels", "mean", "std")})
    config.model.backbone.update({key: x for key, x in bundle.section.backbone.items() if x is not None})
    config.model.dtype = "float32"
    params = {name: tree for name, tree in bundle.variables["params"].items() if name != "head"}
    variables = move_pooling_norm({**bundle.variables, "params": params})
    trees = {name: {"encoder": x["encoder"]} for name, x in variables.items() if "encoder" in x}
    return bundle._replace(config=config, variables=trees, classes=())


def move_pooling_norm(variables: dict) -> dict:
    """Return the variables of a bare backbone with the norm of its pooling as its last norm.

    Variables with a head, or with a last norm already, are returned as they are.
    """
    params = variables["params"]
    pooling = params.get("pooling", {})
    if "head" in params or "norm" in params.get("encoder", {}) or set(pooling) != {"norm"}:
        return variables
    encoder = {**params.get("encoder", {}), "norm": pooling["norm"]}
    rest = {name: tree for name, tree in params.items() if name != "pooling"}
    return {**variables, "params": {**rest, "encoder": encoder}}


def position_tables(bundle: ModelBundle) -> dict[str, np.ndarray]:
    """Return {path: array} of the sine-cosine tables that the model adds and does not learn.

    Published files have them among the parameters, with an entry of zeros for the cls token.
    """
    height, width, _ = bundle.image_shape
    encoder, tables = bundle.encoder, {}
    has_cls = encoder.has_cls_token

    def add(module, cell, channels, grid):
        table = resampled_positions(height // cell, width // cell, channels, grid)
        tables[f"{module}/position/pos_embed"] = table
        if has_cls:
            tables[f"{module}/position/{CLS_TABLE}"] = np.zeros(
                (encoder.class_tokens, channels), np.float32
            )

    if encoder.positions == "fixed":
        add("encoder", encoder.embed_stride, encoder.stage_widths[0], encoder.position_grid)
    if bundle.kind in ("mae", "mixmim"):
        add("decoder", encoder.stride, bundle.config.method.decoder.width, None)
    return tables


def is_sincos(table: np.ndarray, cls: np.ndarray | None = None) -> bool:
    """Return whether a table (h, w, D), with an entry (1, D) of cls, is the sine-cosine one of its grid."""
    if table.ndim != 3 or not table.size or table.shape[-1] % 4:
        return False
    if cls is not None and np.abs(cls).max() > TOLERANCE:
        return False
    return bool(np.abs(table - resampled_positions(*table.shape)).max() < TOLERANCE)
