"""Everything a fine-tuning run is made of, built from its config."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fastmim_jax import plan as plans
from fastmim_jax.build import create_classifier
from fastmim_jax.data.mixing import mix, random_erasing, soft_targets
from fastmim_jax.data.randaugment import RandAugment
from fastmim_jax.errors import UserError
from fastmim_jax.train import sharding, state, steps
from fastmim_jax.train import stage as train_stage
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.optimizer import layer_lr_scales, make_optimizer, no_decay_names
from fastmim_jax.train.runs import load_run
from fastmim_jax.train.warm_start import has_checkpoint, warm_start

SHOWN = 5  # likeliest classes that are told of an image


@dataclasses.dataclass(frozen=True)
class FinetuneStage(train_stage.TrainStage):
    """Fine-tuning of a classifier.

    classes: their names.
    prepare: (key, batch) -> augmented images (B, H, W, C) float32, soft targets (B, K).
    judge: (variables, batch of a pass) -> what `_classify` tells of each row.
    """

    model: Any
    classes: tuple[str, ...]
    prepare: Any
    classify: Any

    inputs = ("image", "flip", "label")

    def loader(self, source, **options):
        """As any stage's, with RandAugment and repeats."""
        augment = self.config.augment
        draw = RandAugment(augment.magnitude, augment.magnitude_std) if augment.magnitude else None
        return super().loader(source, augment=draw, repeats=augment.repeated_augmentation, **options)


def build(config, records, classes, devices=None, saved=None):
    """A Tuning from a complete config, see `inherit_backbone`; nothing is compiled yet.

    Args:
      records: images in the training data.
      classes: names of them.
      saved: `train.saved.LoadedRun` to start from, or None.

    Raises:
      UserError: the config cannot work, in one sentence.
    """
    devices = devices or jax.devices()
    train_stage.check_kernel("model", config.model, devices[0].platform)
    _check_augment(config)
    _check_resize(config.data)
    plan = plans.make_stage_plan(config, records=records, devices=len(devices))
    model = create_classifier(config.model, len(classes))
    mesh = sharding.make_mesh(config.run.mesh_fsdp, devices)
    optimizer_of = partial(_optimizer, config.optimizer, model.encoder)
    shape = (*config.data.image_size, config.data.channels)
    averaged = bool(config.optimizer.ema_decay)
    init = state.initializer(model, optimizer_of, shape, averaged)
    abstract = train_stage.abstract_state(init, mesh)
    normalize = train_stage.prepare(config.data)
    prepare = partial(_prepare, normalize=normalize, classes=len(classes), **_augmentation(config.augment))
    update = partial(
        steps.finetune_step,
        model=model,
        prepare=prepare,
        key=train_stage.run_key(config.seed),
        optimizer=optimizer_of(abstract.params),
        schedule=train_stage.schedule(config, plan),
        accumulation=plan.accumulation,
        ema_decay=config.optimizer.ema_decay,
    )
    look = partial(_classify, model=model, normalize=normalize)

    def create():
        begun = state.create_state(init, abstract, config.seed)
        if saved is None:
            return begun
        return warm_start(saved.variables, begun, optimizer_of, abstract, model.encoder.resampling)

    return FinetuneStage(
        config=config,
        plan=plan,
        mesh=mesh,
        abstract=abstract,
        create=create,
        step=train_stage.compile_step(update, abstract, mesh),
        model=model,
        classes=tuple(classes),
        prepare=prepare,
        classify=train_stage.compile_eval(
            look, abstract.eval_variables(), mesh, sharding.batch_sharding(mesh)
        ),
    )


def open_finetuned(path, step=None):
    """A fine-tuned checkpoint to look with -> (Saved, Tuning, its variables on the devices).

    Raises:
      UserError: no checkpoint there, or one that was not fine-tuned.
    """
    saved = load_run(path, step)
    listed = saved.workdir / "classes.json"
    if "model" not in saved.config or not listed.exists():
        raise UserError(
            f"{saved.workdir} was not fine-tuned: expected the --workdir of a `fastmim finetune` "
            "(`fastmim probe` and `fastmim features` take pre-trained ones)"
        )
    config = saved.config
    batch = config.schedule.batch_size
    config.schedule.update(batch_size=_divided(batch, jax.device_count()), steps=1, accumulation=1)
    config.augment.mix_groups = 1
    run = build(config, batch, json.loads(listed.read_text()))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract.eval_variables())
    return saved, run, jax.device_put(saved.variables, shardings)


def _divided(batch, devices):
    return -(-batch // devices) * devices


def _optimizer(options, encoder, params):
    return make_optimizer(
        params,
        no_decay=no_decay_names(params, encoder, options.official),
        scales=layer_lr_scales(params, encoder, options.layer_decay, options.official),
        **train_stage.optimizer_options(options),
    )


def _augmentation(augment):
    return dict(
        erased=augment.random_erasing,
        smoothing=augment.label_smoothing,
        mixing=dict(
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            probability=augment.mix_probability,
            switch=augment.mix_switch,
            groups=augment.mix_groups,
        ),
    )


def _prepare(key, batch, *, normalize, classes, erased, smoothing, mixing):
    """Normalise, erase, mix, in the published order."""
    images = normalize(batch["image"], batch["flip"])
    images = random_erasing(jax.random.fold_in(key, 2), images, erased)
    targets = soft_targets(batch["label"], classes, smoothing)
    return mix(jax.random.fold_in(key, 3), images, targets, **mixing)


def _classify(variables, batch, *, model, normalize):
    """What is thought of whole images, row by row.

    Args:
      variables: of the model, {"params": ..., ...}.
      batch: {"image", "label", "index", "valid", "undecodable"} of `data.passes`.

    Returns:
      {"best" (B, 5): likeliest classes first, "probability" (B, 5), "rank" (B,): classes that are likelier
      than the true one, "loss" (B,): cross-entropy; and the batch without its images}.
    """
    flip = jnp.zeros(len(batch["image"]), bool)
    logits = model.apply(variables, normalize(batch["image"], flip))
    label = jnp.maximum(batch["label"], 0)[:, None]
    own = jnp.take_along_axis(logits, label, axis=1)
    # Of equals the first counts as likelier, as for "best".
    before = (logits == own) & (jnp.arange(logits.shape[1]) < label)
    probability, best = jax.lax.top_k(jax.nn.softmax(logits), min(SHOWN, logits.shape[1]))
    return {
        "best": best,
        "probability": probability,
        "rank": ((logits > own) | before).sum(1),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, label[:, 0]),
        **{name: x for name, x in batch.items() if name != "image"},
    }


def _check_augment(config):
    augment, batch = config.augment, config.schedule.batch_size
    if augment.mix_groups < 1 or batch % augment.mix_groups:
        raise UserError(
            f"config.augment.mix_groups is {augment.mix_groups}, which does not divide the batch of "
            f"{batch}: type --config.augment.mix_groups={math.gcd(batch, max(augment.mix_groups, 1))}"
        )
    for key in ("random_erasing", "mix_probability", "mix_switch", "label_smoothing"):
        if not 0 <= augment[key] <= 1:
            raise UserError(
                f"config.augment.{key} is {augment[key]}, expected a share from 0 to 1: type "
                f"--config.augment.{key}=0.1"
            )


def _check_resize(data):
    side = min(data.image_size)
    if data.eval_resize is not None and data.eval_resize < side:
        raise UserError(
            f"config.data.eval_resize is {data.eval_resize}, expected a short side of at least the {side} "
            f"pixels that are cropped from it: type --config.data.eval_resize={side}"
        )


def starting_point(config, workdir):
    """-> (the complete config, Saved to start from or None).

    A work directory that has a checkpoint already says itself what was open.

    Raises:
      UserError: `config.init` is no checkpoint, or of another backbone.
    """
    before = Path(workdir) / "config.json"
    if before.exists() and has_checkpoint(workdir):
        return inherit_own(config, json.loads(before.read_text())), None
    saved = load_run(config.init) if config.init else None
    return inherit_backbone(config, saved.config if saved else None), saved


def inherit_own(config, before):
    """The config with what it leaves open of the backbone, as a run of the same command resolved it."""
    for key, value in before["model"]["backbone"].items():
        if config.model.backbone[key] in (None, ""):
            config.model.backbone[key] = tuple(value) if isinstance(value, list) else value
    return config
