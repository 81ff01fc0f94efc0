"""Pictures of what a model fills in: while it trains, and from any checkpoint."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.data.sources import open_source
from fastmim_jax.io import read_json_lines
from fastmim_jax.mim.mixmim import MixMIM, partner
from fastmim_jax.mim.targets.depiction import Histograms, Images
from fastmim_jax.tools.draw.glyphs import (
    ABSENT,
    DECODED,
    FILLED,
    VISIBLE,
    not_predicted,
    shared_maximum,
    told,
)
from fastmim_jax.tools.draw.pages import (
    Column,
    draw_curve,
    draw_hog_reconstruction,
    draw_pixel_reconstruction,
    marked,
)
from fastmim_jax.train.held_out import fixed_batches
from fastmim_jax.train.inference import open_method
from fastmim_jax.train.loop import Hook
from fastmim_jax.train.report import summarize
from fastmim_jax.train.stage import open_held_out_data, open_training_data

SHOWN = 6  # images in a picture


def picture_hook(stage, workdir):
    """A Hook that draws the same few images (held-out ones if there are any) and the curve so far."""
    source = open_held_out_data(stage.config) or open_training_data(stage.config)
    size, batches = fixed_batches(stage, source, SHOWN)
    folder = Path(workdir) / "pictures"

    def draw_step(step, state):
        batch = stage.to_devices(batches[0], size)
        output, images = stage.forward(state.eval_variables(), batch, np.int32(0))
        if jax.process_index() == 0:
            draw(stage, output, images, step, SHOWN, folder / f"step_{step:07d}.png")
            draw_loss_curve(workdir)

    return Hook(stage.config.run.picture_every, draw_step)


def draw_loss_curve(workdir):
    """Writes pictures/curve.png from metrics.jsonl -> its path, or None before the first line."""
    lines = read_json_lines(Path(workdir) / "metrics.jsonl").records
    trained = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "eval_loss" in line]
    if not trained:
        return None
    baselines, stages = summarize(workdir).baselines, {}
    for line in trained:
        if "stage" in line:
            stages.setdefault(f"stage {line['stage']}", line["step"])
    return draw_curve(
        Path(workdir) / "pictures" / "curve.png",
        [line["step"] for line in trained],
        [line["loss"] for line in trained],
        baselines={f"always {name}": loss for name, loss in baselines["training"].items()},
        evals=([line["step"] for line in held_out], [line["eval_loss"] for line in held_out]),
        stages=stages,
        title="Pre-training loss",
    )


def reconstruct(workdir, images=None, count=SHOWN, step=None):
    """Draw reconstructions from a checkpoint of a work directory.

    Args:
      workdir: of a pre-training run.
      images: a folder or data set, shown from its first image on, as the largest central crops of the
        model's shape; None for the run's own held-out or training images.
      count: number of images.
      step: of the checkpoint, None for the newest.

    Returns:
      The path of the picture.

    Raises:
      UserError: no pre-trained checkpoint there, or no images.
    """
    devices = jax.local_devices()[:1]  # enough for a few images
    loaded, stage = open_method(workdir, step, batch_size=count, devices=devices)
    config, reader = loaded.config, stage.reader
    if images:
        source = open_source(images, config.data.split)
        height, width = reader.image_size
        ratio = width / height
        central = dataclasses.replace(reader, crop_scale=(1.0, 1.0), crop_ratio=(ratio, ratio))
        stage = dataclasses.replace(stage, reader=central)
    else:
        source = open_held_out_data(config) or open_training_data(config)
    count = min(count, len(source))
    size, (batch,) = fixed_batches(stage, source, count, shuffle=False)
    batch["flip"][:] = False
    output, normalized = stage.forward(stage.variables, stage.to_devices(batch, size), np.int32(0))
    path = Path(workdir) / "pictures" / f"reconstruct_{loaded.step:07d}.png"
    return draw(stage, output, normalized, loaded.step, count, path)


def draw(stage, out, images, step, count, path):
    """Draws the first `count` images of an Output as its target is depicted -> the path."""
    method, (out, images) = stage.model, jax.device_get((out, images))
    caption = f"step {step:,}, loss {float(out.loss):.4f} on these images"
    out = out._replace(mask=out.mask > 0)
    depiction = method.target.depict(out.prediction, out.target, images, method.output_stride)
    denormalize = stage.reader.denormalize
    if isinstance(depiction, Histograms):
        shown = [denormalize(x[:count]) for x in (images, out.encoder_input)]
        out, depiction = jax.tree.map(
            lambda x: np.asarray(x)[:count] if np.ndim(x) else x, (out, depiction)
        )
        return _draw_histograms(method.target.label, depiction, out, *shown, path, caption=caption)
    if isinstance(depiction, Images):
        draw_columns = _mixture if isinstance(method, MixMIM) else _masked
        columns, maps = draw_columns(method, out, images), []
    else:
        columns, maps = _inputs(out, images), _maps(method.target.label, depiction, out)
    columns = [x._replace(images=denormalize(x.images)) for x in columns] + maps
    columns = [x._replace(images=x.images[:count], roles=x.roles[:count]) for x in columns]
    return draw_pixel_reconstruction(columns, path, caption=caption)


def _inputs(out, images):
    """[Column of normalised images]: the images, and the encoder input."""
    return [Column("original", "", images), Column("what the encoder saw", "", out.encoder_input)]


def _masked(method, out, images):
    """[Column of normalised images]: masked patches, filled in."""
    filled, note, roles = _fill_in(method, out, out.mask, images)
    note = f"hidden patches are predicted, visible ones are true{note}"
    return [
        *_inputs(out, images),
        Column("filled in", note, filled, not_predicted(roles)),
        *marked(filled, roles),
    ]


def _mixture(method, out, images):
    """[Column of normalised images]: two images, their mixture, and both taken out of it."""
    partners = partial(partner, groups=method.noise_shape(images.shape)[0])
    own, note, roles = _fill_in(method, out, out.mask, images)
    # A mixture lacks of an image the cells that it has of the partner.
    other, _, others = _fill_in(method, out, ~out.mask, images)
    other, others = partners(other), partners(others)
    return [
        Column("image", "", images),
        Column("its partner", "", partners(images)),
        Column("the mixture", "all that the encoder saw", out.encoder_input),
        Column("image", f"where the mixture lacks it, predicted{note}", own, not_predicted(roles)),
        *marked(own, roles),
        Column("its partner", "likewise, from the same mixture", other, not_predicted(others)),
        *marked(other, others),
    ]


def _maps(label, maps, out):
    """[Column in [0, 1]]: the predicted map in masked patches, and the true map."""
    low, high = (limit(maps.true, axis=(0, 1, 2)) for limit in (np.min, np.max))
    predicted, true = ((np.asarray(x) - low) / np.maximum(high - low, 1e-12) for x in maps)
    roles = _roles(out, out.mask)
    filled = np.where(_on_pixels(out.mask, true), predicted, true)
    note = f"hidden patches are predicted, visible ones are true{told(not_predicted(roles))}"
    return [
        Column(f"predicted {label}", note, filled, not_predicted(roles)),
        *marked(filled, roles),
        Column(f"true {label}", "", true),
    ]


def _draw_histograms(label, histograms, out, images, encoder_input, path, caption):
    prediction, truth, normalized = histograms
    roles = _roles(out, out.mask)
    side = prediction.shape[1] // roles.shape[1]
    # Squared error shrinks unsure predictions towards zero; the header of the column gives the gain.
    strokes = dict(power=1.4, gain=1.5)
    if not normalized:
        strokes = dict(full=shared_maximum(prediction, truth), power=0.7)
    roles, strokes = roles.repeat(side, 1).repeat(side, 2), dict(strokes, label=label, caption=caption)
    return draw_hog_reconstruction(images, encoder_input, prediction, truth, roles, path, **strokes)


def _fill_in(method, out, mask, images):
    """-> images with predicted pixels in masked patches, words on the source of these, and all roles."""
    size = method.output_stride
    predicted, true, note = method.target.depict(out.prediction, out.target, images, size)
    roles, note = _roles(out, mask), f"; {note}" if note else ""
    filled = np.where(_on_pixels(mask, images), predicted, true)
    return filled, note + told(not_predicted(roles)), roles


def _on_pixels(mask, images):
    """(B, h, w) -> (B, H, W, 1), each cell repeated."""
    side = images.shape[1] // mask.shape[1]
    return mask.repeat(side, 1).repeat(side, 2)[..., None]


def _roles(out, mask):
    """(B, h, w) int of `glyphs`: the role of every patch under a mask."""
    thrown = np.where(out.prediction.any(-1), FILLED, ABSENT)  # what was not predicted is exactly 0
    return np.where(mask, np.where(out.thrown > 0, thrown, DECODED), VISIBLE)
