"""Pictures of reconstructions, during pre-training and from any checkpoint, and of the loss curve."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmim_jax.build import METHODS
from fastmim_jax.data.sources import open_source
from fastmim_jax.draw.curve import draw_curve, step_axis
from fastmim_jax.draw.glyphs import (
    ABSENT,
    DECODED,
    FILLED,
    VISIBLE,
    only_absent,
    shared_maximum,
    thrown_legend,
)
from fastmim_jax.draw.pages import (
    Column,
    draw_hog_reconstruction,
    draw_pixel_reconstruction,
    marked_column,
)
from fastmim_jax.mim.losses import NAMES as LOSS_NAMES
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.mixmim import MixMIM, partner
from fastmim_jax.mim.output import Output
from fastmim_jax.mim.targets import TARGETS
from fastmim_jax.mim.targets.depiction import Histograms, Images, Maps
from fastmim_jax.models.typing import Array
from fastmim_jax.train.held_out import fixed_batches
from fastmim_jax.train.hook import Hook
from fastmim_jax.train.inference import MethodStage, open_method
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.pretrain import PretrainStage
from fastmim_jax.train.report import summarize
from fastmim_jax.train.runs import read_config
from fastmim_jax.train.stage import open_held_out_data, open_training_data

SHOWN = 6  # images in a picture


class FilledImages(NamedTuple):
    """Images whose masked patches are predictions.

    images: (B, H, W, C), normalised. notes: what is taken from the truth, and the legend of patches without
    a prediction. roles: (B, h, w) roles of the patches, see `glyphs`.
    """

    images: Array
    notes: tuple[str, ...]
    roles: Array


def picture_hook(stage: PretrainStage, workdir: str | Path) -> Hook:
    """Return a Hook that draws the same few images, held-out ones if there are any, and the loss curve."""
    source = open_held_out_data(stage.config) or open_training_data(stage.config)
    size, batches = fixed_batches(stage, source, SHOWN)
    folder = Path(workdir) / "pictures"

    def draw_step(step, state):
        batch = stage.to_devices(batches[0], size)
        output, images = stage.forward(state.eval_variables(), batch, np.int32(0))
        if jax.process_index():
            return {}
        drawn = draw(stage, output, images, step, SHOWN, folder / f"step_{step:07d}.png")
        pictures = {"reconstructions": drawn, "curve": draw_loss_curve(workdir)}
        return {name: path for name, path in pictures.items() if path is not None}

    return Hook(stage.config.run.picture_every, draw_step)


def draw_loss_curve(workdir: str | Path) -> Path | None:
    """Write pictures/curve.png from metrics.jsonl and return its path, or None without a logged loss."""
    lines = read_metrics(workdir).records
    trained = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "eval_loss" in line]
    if not trained:
        return None
    baselines = summarize(workdir).baselines
    stages: dict[str, int] = {}
    for line in trained:
        if "stage" in line:
            stages.setdefault(f"stage {line['stage']}", line["step"])
    return draw_curve(
        Path(workdir) / "pictures" / "curve.png",
        [line["step"] for line in trained],
        [line["loss"] for line in trained],
        baselines={f"always {name}": loss for name, loss in baselines.get("training", {}).items()},
        evals=([line["step"] for line in held_out], [line["eval_loss"] for line in held_out]),
        stages=stages,
        title="Pre-training loss",
        x=step_axis([] if len(stages) > 1 else trained),
        y=_loss_axis(workdir),
    )


def _loss_axis(workdir: str | Path) -> str:
    """Return "loss" with its kind and target, as far as the config of a work directory has them."""
    if not (Path(workdir) / "config.json").exists():
        return "loss"
    method = read_config(workdir).method
    kind: type[Method] = METHODS[method.name]
    name = LOSS_NAMES.get(kind.loss_fn)
    return f"loss: {name} of {TARGETS[method.target].label}" if name else "loss"


def reconstruct(
    workdir: str | Path,
    images: str | None = None,
    count: int = SHOWN,
    step: int | None = None,
    settings: Sequence[str] = (),
) -> Path:
    """Draw reconstructions from a checkpoint of a work directory.

    Args:
      workdir: of a pre-training run.
      images: a folder or data set, shown from its first image on, as the largest central crops of the
        model's shape; None for the run's own held-out or training images.
      count: number of images.
      step: of the checkpoint, None for the newest.
      settings: see `train.runs.load_run`.

    Returns:
      The path of the picture.

    Raises:
      UserError: no pre-trained checkpoint there, or no images.
    """
    devices = jax.local_devices()[:1]  # enough for a few images
    loaded, stage = open_method(workdir, step, batch_size=count, devices=devices, settings=settings)
    config = loaded.config
    if images:
        source, stage = open_source(images, config.data.split), central_crops(stage)
    else:
        source = open_held_out_data(config) or open_training_data(config)
    count = min(count, len(source))
    output, normalized = reconstruct_images(stage, source, count)
    path = loaded.workdir / "pictures" / f"reconstruct_{loaded.step:07d}.png"
    return draw(stage, output, normalized, loaded.step, count, path)


def central_crops(stage: MethodStage) -> MethodStage:
    """Return the stage of a method that reads the largest central crops of the model's shape."""
    height, width = stage.reader.image_size
    ratio = width / height
    central = dataclasses.replace(stage.reader, crop_scale=(1.0, 1.0), crop_ratio=(ratio, ratio))
    return dataclasses.replace(stage, reader=central)


def reconstruct_images(stage: MethodStage, source: Any, count: int) -> tuple[Output, jax.Array]:
    """Return the output of a method for the first images of a source, and these images, normalised."""
    size, (batch,) = fixed_batches(stage, source, count, shuffle=False)
    batch["flip"][:] = False
    output, normalized = stage.forward(stage.variables, stage.to_devices(batch, size), np.int32(0))
    return output, normalized


def draw(stage: MethodStage, output: Output, images: jax.Array, step: int, count: int, path: Path) -> Path:
    """Draw the first images of a method's output in the form that its target depicts.

    Args:
      stage: the method.
      output: of its forward pass.
      images: (B, H, W, C), the normalised images of that pass.
      step: for the caption.
      count: number of images to draw.
      path: PNG file.

    Returns:
      The path.
    """
    method, denormalize = stage.model, stage.reader.denormalize
    output, images = jax.device_get((output, images))
    caption = f"step {step:,}, loss {float(output.loss):.4f} on these images"
    output = output._replace(mask=output.mask > 0)
    label = method.target.label
    depiction = method.target.depict(output.prediction, output.target, images, method.output_stride)
    if isinstance(depiction, Histograms):
        original, masked = (denormalize(x[:count]) for x in (images, output.encoder_input))
        output, depiction = jax.tree.map(
            lambda x: np.asarray(x)[:count] if np.ndim(x) else x, (output, depiction)
        )
        return _draw_histograms(label, depiction, output, original, masked, path, caption)
    if isinstance(depiction, Images):
        map_columns: list[Column] = []
        if isinstance(method, MixMIM):
            image_columns = _mixture_columns(method, output, images)
        else:
            image_columns = _masked_columns(method, output, images)
    else:
        image_columns, map_columns = _input_columns(output, images), _map_columns(label, depiction, output)
    columns = [x._replace(images=denormalize(x.images)) for x in image_columns] + map_columns
    columns = [
        column._replace(images=column.images[:count], roles=column.roles[:count]) for column in columns
    ]
    return draw_pixel_reconstruction(columns, path, caption=caption)


def _input_columns(output: Output, images: Array) -> list[Column]:
    """Return columns of normalised images: original and encoder input."""
    return [Column("original", (), images), Column("encoder input", (), output.encoder_input)]


def _masked_columns(method: Method, output: Output, images: Array) -> list[Column]:
    """Return columns of normalised images: original, encoder input, masked patches filled in."""
    filled = _fill_in(method, output, output.mask, images)
    notes = "masked patches are predicted", "visible ones are true", *filled.notes
    return [
        *_input_columns(output, images),
        Column("filled in", notes, filled.images, only_absent(filled.roles)),
        *marked_column(filled.images, filled.roles),
    ]


def _mixture_columns(method: MixMIM, output: Output, images: Array) -> list[Column]:
    """Return columns of normalised images: a pair, its mixture, and both reconstructed from the mixture."""
    partners = partial(partner, groups=method.noise_shape(images.shape)[0])
    own = _fill_in(method, output, output.mask, images)
    # The cells of the partner that a mixture lacks are those that it has of the image itself.
    other = _fill_in(method, output, ~output.mask, images)
    other_images, other_roles = partners(other.images), partners(other.roles)
    own_notes = "predicted where the mixture lacks it", *own.notes
    other_notes = ("likewise, from the same mixture",)
    return [
        Column("image", (), images),
        Column("its partner", (), partners(images)),
        Column("the mixture", ("the encoder input",), output.encoder_input),
        Column("image", own_notes, own.images, only_absent(own.roles)),
        *marked_column(own.images, own.roles),
        Column("its partner", other_notes, other_images, only_absent(other_roles)),
        *marked_column(other_images, other_roles),
    ]


def _map_columns(label: str, maps: Maps, output: Output) -> list[Column]:
    """Return columns in [0, 1]: the predicted map in masked patches, and the true map."""
    low, high = (limit(maps.true, axis=(0, 1, 2)) for limit in (np.min, np.max))
    predicted, true = ((np.asarray(x) - low) / np.maximum(high - low, 1e-12) for x in maps)
    roles = _patch_roles(output, output.mask)
    filled = np.where(_upsample_mask(output.mask, true), predicted, true)
    absent = only_absent(roles)
    notes = "masked patches are predicted", "visible ones are true", *thrown_legend(absent)
    return [
        Column(f"predicted {label}", notes, filled, absent),
        *marked_column(filled, roles),
        Column(f"true {label}", (), true),
    ]


def _draw_histograms(label, histograms, output, images, encoder_input, path, caption):
    prediction, truth, normalized = histograms
    roles = _patch_roles(output, output.mask)
    side = prediction.shape[1] // roles.shape[1]
    # Uncertain predictions shrink towards zero under a squared error: the gain, in the header, undoes it.
    strokes = dict(power=1.4, gain=1.5)
    if not normalized:
        strokes = dict(full=shared_maximum(prediction, truth), power=0.7)
    roles, text = roles.repeat(side, 1).repeat(side, 2), dict(label=label, caption=caption)
    return draw_hog_reconstruction(images, encoder_input, prediction, truth, roles, path, **text, **strokes)


def _fill_in(method: Method, output: Output, mask: Array, images: Array) -> FilledImages:
    """Replace the masked patches of normalised images by their predictions; mask: (B, h, w) bool."""
    depiction = method.target.depict(output.prediction, output.target, images, method.output_stride)
    if not isinstance(depiction, Images):
        raise TypeError(f"{method.target.label} is depicted as {type(depiction).__name__}, expected Images")
    predicted, true, note = depiction
    roles = _patch_roles(output, mask)
    filled = np.where(_upsample_mask(mask, images), predicted, true)
    return FilledImages(filled, ((note,) if note else ()) + thrown_legend(only_absent(roles)), roles)


def _upsample_mask(mask, images):
    """Repeat the cells of a mask, (B, h, w) -> (B, H, W, 1), to the size of images (B, H, W, ...)."""
    side = images.shape[1] // mask.shape[1]
    return mask.repeat(side, 1).repeat(side, 2)[..., None]


def _patch_roles(output, mask):
    """Return the roles of patches, (B, h, w) int, for a mask (B, h, w) bool."""
    thrown = np.where(output.prediction.any(-1), FILLED, ABSENT)  # a prediction of exactly 0 is absent
    return np.where(mask, np.where(output.thrown > 0, thrown, DECODED), VISIBLE)
