"""Pictures of what a model fills in: while it trains, and from any checkpoint."""

import math
from functools import partial
from pathlib import Path

import jax
import numpy as np

from fastmim_jax.config import pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json_lines
from fastmim_jax.mim.mixmim import MixMIM, partner
from fastmim_jax.mim.targets import HOG, patch_statistics
from fastmim_jax.models.layers import patchify, unpatchify
from fastmim_jax.stages import at_stage
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
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.held_out import fixed_batches
from fastmim_jax.train.loop import Hook
from fastmim_jax.train.report import summary

SHOWN = 6  # images in a picture


def picture_hook(run, workdir):
    """A Hook that draws the same few images (held-out ones if there are any) and the curve so far."""
    source = train_stage.open_held_out_data(run.config) or train_stage.open_training_data(run.config)
    size, batches = fixed_batches(run, source, SHOWN)
    folder = Path(workdir) / "pictures"

    def look(step, state):
        seen = run.forward(state, run.to_devices(batches[0], size), np.int32(0))
        if jax.process_index() == 0:
            draw(run, *seen, step, SHOWN, folder / f"step_{step:07d}.png")
            draw_loss_curve(workdir)

    return Hook(run.config.run.picture_every, look)


def draw_loss_curve(workdir):
    """Writes pictures/curve.png from metrics.jsonl -> its path, or None before the first line."""
    lines = read_json_lines(Path(workdir) / "metrics.jsonl").records
    trained = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "eval_loss" in line]
    if not trained:
        return None
    baselines, stages = summary(workdir)["baselines"], {}
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


def reconstruct(config, workdir, images=None, count=SHOWN, step=None):
    """Draws reconstructions from a checkpoint of a work directory.

    Args:
      config: the run's resolved config.
      workdir: of the run.
      images: a folder or data set, shown from its first image on, whole (the largest central part of
        the model's shape); None for the run's own held-out or training images.
      count: how many.
      step: which checkpoint, None for the newest.

    Returns:
      The path of the picture.

    Raises:
      UserError: no checkpoint there, or no images.
    """
    with Checkpoints(Path(workdir) / "checkpoints") as checkpoints:
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise UserError(
                f"{workdir} holds no checkpoint yet: train first with "
                f"fastmim pretrain --config=... --workdir={workdir}"
            )
        config = _for_looking(config, checkpoints.position(step).get("stage", 0), images)
        source = train_stage.open_held_out_data(config) or train_stage.open_training_data(config)
        count = min(count, len(source))
        config.schedule.batch_size = count
        run = train_stage.build(config, len(source), jax.local_devices()[:1])  # a few images want no mesh
        state = checkpoints.restore_params(step, run.abstract)
    size, (batch,) = fixed_batches(run, source, count, shuffle=False)
    batch["flip"][:] = False
    seen = run.forward(state, run.to_devices(batch, size), np.int32(0))
    return draw(run, *seen, step, count, Path(workdir) / "pictures" / f"reconstruct_{step:07d}.png")


def _for_looking(config, stage, images):
    """The config of one stage, for a few images on one device."""
    config = at_stage(config, stage)
    config.stages = pretrain_config().stages
    config.schedule.update(accumulation=1, steps=1)
    config.run.mesh_fsdp = 1
    config.method.groups = 1
    if images:
        height, width = config.data.image_size
        config.data.update(path=images, eval_path="", eval_split="", crop_scale=(1.0, 1.0))
        config.data.crop_ratio = (width / height,) * 2
    return config


def draw(run, out, images, step, count, path):
    """Draws the first `count` images of an Output as its target is best looked at -> the path."""
    out, images = jax.device_get((out, images))
    caption = f"step {step:,}, loss {float(out.loss):.4f} on these images"
    out = out._replace(mask=out.mask > 0)
    mean, std = (np.asarray(x, np.float32) for x in train_stage.data_statistics(run.config.data))
    shown = images * std + mean, out.encoder_input * std + mean
    if isinstance(run.method.target, HOG):
        out = jax.tree.map(lambda x: x[:count] if x.ndim else x, out)
        images, seen = (x[:count] for x in shown)
        return _draw_hog(run.method.target, out, images, seen, path, caption=caption)
    draw_columns = _mixture if isinstance(run.method, MixMIM) else _hidden
    columns = [
        x._replace(images=x.images[:count] * std + mean, roles=x.roles[:count])
        for x in draw_columns(run.method, out, images)
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
