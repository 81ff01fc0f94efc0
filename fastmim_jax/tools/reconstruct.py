"""Pictures of what a model fills in: while it trains, and from any checkpoint."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.data.sources import open_source
from fastmim_jax.io import read_json_lines
from fastmim_jax.mim.mixmim import MixMIM, partner
from fastmim_jax.mim.targets import HOG, patch_statistics
from fastmim_jax.models.layers import patchify, unpatchify
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


def draw(run, out, images, step, count, path):
    """Draws the first `count` images of an Output as its target is best looked at -> the path."""
    out, images = jax.device_get((out, images))
    caption = f"step {step:,}, loss {float(out.loss):.4f} on these images"
    out = out._replace(mask=out.mask > 0)
    mean, std = (np.asarray(x, np.float32) for x in (run.reader.mean, run.reader.std))
    shown = images * std + mean, out.encoder_input * std + mean
    if isinstance(run.model.target, HOG):
        out = jax.tree.map(lambda x: x[:count] if x.ndim else x, out)
        images, seen = (x[:count] for x in shown)
        return _draw_hog(run.model.target, out, images, seen, path, caption=caption)
    draw_columns = _mixture if isinstance(run.model, MixMIM) else _hidden
    columns = [
        x._replace(images=x.images[:count] * std + mean, roles=x.roles[:count])
        for x in draw_columns(run.model, out, images)
    ]
    return draw_pixel_reconstruction(columns, path, caption=caption)


def _hidden(method, out, images):
    """[Column of normalised images]: what was hidden, filled in."""
    filled, note, roles = _fill_in(method.target, out, out.mask, images)
    note = f"hidden patches are predicted, visible ones are true{note}"
    return [
        Column("original", "", images),
        Column("what the encoder saw", "", out.encoder_input),
        Column("filled in", note, filled, not_predicted(roles)),
        *marked(filled, roles),
    ]


def _mixture(method, out, images):
    """[Column of normalised images]: two images, their mixture, and both taken out of it."""
    partners = partial(partner, groups=method.noise_shape(images.shape)[0])
    own, note, roles = _fill_in(method.target, out, out.mask, images)
    # What one mixture lacks of an image is what it keeps of the other.
    other, _, others = _fill_in(method.target, out, ~out.mask, images)
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


def _draw_hog(target, out, images, seen, path, caption):
    channels = images.shape[-1]
    side = math.isqrt(out.target.shape[-1] // target.values(target.cell, channels))

    def cells(tokens):
        x = np.asarray(target.split(tokens, side, side * target.cell))
        return x.reshape(*x.shape[:3], channels, target.bins)

    prediction, truth = cells(out.prediction), cells(out.target)
    roles = _roles(out, out.mask).repeat(side, 1).repeat(side, 2)
    # Squared error shrinks unsure predictions towards zero; the header of the column tells the gain.
    strokes = dict(power=1.4, gain=1.5)
    if not target.normalize:
        strokes = dict(full=shared_maximum(prediction, truth), power=0.7)
    return draw_hog_reconstruction(images, seen, prediction, truth, roles, path, caption=caption, **strokes)


def _fill_in(target, out, hidden, images):
    """-> images whose hidden patches are predicted, words on what of these is not, and all roles."""
    size = math.isqrt(out.target.shape[-1] // images.shape[-1])
    truth = np.asarray(patchify(images, size))
    predicted, note = out.prediction, ""
    if target.normalize:
        mean, std = (np.asarray(x) for x in patch_statistics(truth))
        predicted = predicted * std + mean
        note = "; each such patch's mean and contrast are taken from the truth"
    roles = _roles(out, hidden)
    filled = np.asarray(unpatchify(np.where(hidden[..., None], predicted, truth), size))
    return filled, note + told(not_predicted(roles)), roles


def _roles(out, hidden):
    """(B, h, w) int of `glyphs`: what every patch is, if those are hidden."""
    thrown = np.where(out.prediction.any(-1), FILLED, ABSENT)  # what was not predicted is exactly 0
    return np.where(hidden, np.where(out.thrown > 0, thrown, DECODED), VISIBLE)
