"""A model between two formats: its variables and the config that builds it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.build import create_backbone, create_classifier, create_method
from fastmim_jax.errors import UserError
from fastmim_jax.export.infer_backbone import family_of
from fastmim_jax.io import write_json, write_text
from fastmim_jax.models.layers import resampled_positions
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.state import TrainState

TOLERANCE = 1e-5  # between sine-cosine tables that were rounded to float32 in other ways
OF_CLS = "pos_embed_cls"


class ModelBundle(NamedTuple):
    """config: of pre-training, or of fine-tuning for a classifier or a bare backbone, of one stage.

    variables: {"params": nested, ...}, NumPy arrays. classes: names; () where there is no head.
    origin: what it was read from, to be told. workdir: of the run that it is of, else None.
    format: name of the rules.Format that it was read in, "" for none.
    """

    config: Any
    variables: dict
    classes: tuple[str, ...] = ()
    origin: str = ""
    workdir: Path | None = None
    format: str = ""

    @property
    def kind(self):
        """That of `rules.Format`."""
        return self.config.method.name if "method" in self.config else "classifier"

    @property
    def section(self):
        """Of the config, that with the backbone."""
        return self.config.method if "method" in self.config else self.config.model

    @property
    def encoder(self):
        """The backbone, a Flax module."""
        return create_backbone(self.section)

    @property
    def family(self):
        """That of `rules.Format`."""
        return family_of(self.encoder)

    @property
    def pooling(self):
        """Name of the classifier's pooling; None without a head."""
        return (self.section.pooling or self.encoder.pooling) if self.classes else None

    @property
    def image_shape(self):
        """(H, W, C)."""
        return (*self.config.data.image_size, self.config.data.channels)

    def network(self):
        """The Flax module whose variables these are: a method, a classifier, or a Bare backbone."""
        if self.kind != "classifier":
            return create_method(self.config.method)
        if self.classes:
            return create_classifier(self.config.model, len(self.classes))
        return BareBackbone(self.encoder)

    def shapes(self):
        """The variables as ShapeDtypeStructs, from the network; nothing is computed.

        Raises:
          UserError: the sizes of the config do not fit one another.
        """
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
        try:
            return jax.eval_shape(self.network().init, keys, images)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"these sizes make no model ({str(error).splitlines()[0]}): say what the arrays do not "
                "tell, such as --set=method.backbone.heads=6, or model.backbone.heads of a classifier"
            ) from error


class BareBackbone(NamedTuple):
    """A backbone whose variables are named as inside a classifier."""

    encoder: Any

    def init(self, keys, images):
        """As of a Flax module."""
        variables = self.encoder.init(keys, images)
        return {name: {"encoder": tree} for name, tree in variables.items()}


def open_bundle(path, step=None):
    """The Model of a run: a work directory, or one of its checkpoints.

    Raises:
      UserError: none there.
    """
    saved = load_run(path, step)
    config = at_stage(saved.config, stage_count(saved.config) - 1)
    listed = saved.workdir / "classes.json"
    classes = tuple(json.loads(listed.read_text())) if listed.exists() else ()
    origin = f"{saved.path}, step {saved.step:,}"
    return ModelBundle(config, jax.device_get(saved.variables), classes, origin, saved.workdir)


def write_workdir(model, folder, told):
    """Writes a Model as a work directory that `config.init` and every command but training can be given.

    told: dict for conversion.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    zero = np.zeros((), np.int32)
    params, rest = model.variables["params"], {k: x for k, x in model.variables.items() if k != "params"}
    state = jax.tree.map(jnp.asarray, TrainState(zero, params, rest, {}, zero, zero))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, state, {"records": 0, "stage": 0, "config": {}}, items=("params",))
    write_text(folder / "config.json", model.config.to_json(indent=2) + "\n")
    if model.classes:
        write_json(folder / "classes.json", list(model.classes), indent=0)
    write_json(folder / "conversion.json", told)


def position_tables(model):
    """{path: array} of the sine-cosine tables that the model adds and does not learn.

    Published files have them among the parameters; of cls they hold zeros.
    """
    height, width, _ = model.image_shape
    encoder, tables = model.encoder, {}

    def add(module, cell, channels, grid, of_cls):
        table = resampled_positions(height // cell, width // cell, channels, grid)
        tables[f"{module}/position/pos_embed"] = table
        if of_cls:
            tables[f"{module}/position/{OF_CLS}"] = np.zeros((1, channels), np.float32)

    of_cls = "cls_token" in model.variables["params"]["encoder"]
    if getattr(encoder, "positions", None) == "fixed":
        add("encoder", encoder.embed_stride, encoder.width, encoder.position_grid, of_cls)
    if model.kind in ("mae", "mixmim"):
        add("decoder", encoder.stride, model.config.method.decoder.width, None, of_cls)
    return tables


def is_sincos(table, of_cls=None):
    """Whether a (h, w, D) table, with (1, D) of cls, is the sine-cosine one of its grid."""
    if table.shape[-1] % 4 or (of_cls is not None and np.abs(of_cls).max() > TOLERANCE):
        return False
    return bool(np.abs(table - resampled_positions(*table.shape)).max() < TOLERANCE)
