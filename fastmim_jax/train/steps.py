"""One update and one evaluation, as pure functions of their arguments."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from fastmim_jax.mim.losses import mean_target
from fastmim_jax.mim.masking import disjoint_noise
from fastmim_jax.mim.mixmim import split_groups, split_pairs
from fastmim_jax.models.dense.layers import resize_bilinear
from fastmim_jax.models.device import shard_count
from fastmim_jax.train.micro_batches import mean_gradients, split_strided
from fastmim_jax.train.state import TrainState

TOP = 5  # likeliest classes of an image that are returned


def mask_noise(key: jax.Array, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the uniform noise that masking noise is made of, a function of the seed and the step alone."""
    return jax.random.uniform(jax.random.fold_in(key, step), shape)


def pretrain_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    method: nn.Module,
    prepare: Callable,
    key: jax.Array,
    mask_views: int = 1,
    **options: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Make one update of a pre-training method.

    Args:
      batch: {"image": (B, ...) pixels, "flip": (B,) bool}.
      method: a pre-training method, a Flax module.
      prepare: (image, flip) -> normalised float32 images (B, H, W, C).
      key: the run's random key.
      mask_views: rows in a row that are views of one image with disjoint visible blocks; it divides B.
      options: see `update`.

    Returns:
      The next state and {"loss", "grad_norm", "lr", "skipped", "skipped_in_row"}, scalars.
    """
    images = jax.eval_shape(prepare, batch["image"], batch["flip"])
    rows, blocks = method.noise_shape(images.shape)
    image_noise = mask_noise(key, state.step, (rows // mask_views, blocks))
    image_noise = method.arrange_noise(image_noise, images.shape)
    noise = disjoint_noise(image_noise, mask_views, blocks - method.num_masked(blocks))
    images_of, shared = len(batch["image"]), len(noise) != len(batch["image"])  # by the groups of MixMIM

    def loss_fn(params, collections, part, rngs):
        variables = {"params": params, **collections}
        images = prepare(part["image"], part["flip"])
        out, collections = method.apply(
            variables, images, noise=part["noise"], mutable=list(collections), rngs=rngs
        )
        return out.loss, collections

    def keep_pairs(batch, parts):
        pairs = {name: split_pairs(x, len(noise), parts) for name, x in batch.items() if name != "noise"}
        return {**pairs, "noise": split_groups(batch["noise"], images_of, parts)}

    into_parts = keep_pairs if shared else split_strided
    return update(state, {**batch, "noise": noise}, loss_fn, key=key, into_parts=into_parts, **options)


def finetune_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    model: nn.Module,
    prepare: Callable,
    key: jax.Array,
    **options: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Make one update of a classifier.

    Args:
      batch: {"image": (B, H, W, C) pixels, "flip": (B,) bool, "label": (B,) int}.
      model: from images to logits, a Flax module.
      prepare: (key, batch) -> augmented float32 images and soft targets (B, K).
      key: the run's random key.
      options: see `update`.

    Returns:
      See `pretrain_step`.
    """
    images, targets = prepare(jax.random.fold_in(key, state.step), batch)

    def loss_fn(params, collections, part, rngs):
        variables = {"params": params, **collections}
        logits, collections = model.apply(variables, part["images"], mutable=list(collections), rngs=rngs)
        losses = optax.softmax_cross_entropy(logits, part["targets"])
        return losses.sum() / (len(losses) * shard_count()), collections

    return update(state, {"images": images, "targets": targets}, loss_fn, key=key, **options)


def segment_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    model: nn.Module,
    prepare: Callable,
    key: jax.Array,
    auxiliary_weight: float = 0.4,
    class_weights: Sequence[float] = (),
    **options: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Make one update of segmentation: the mean cross-entropy over the labelled pixels of the batch.

    Args:
      batch: {"image": (B, H, W, C) pixels, "mask": (B, H, W) classes, negative where there is no label}.
      model: from images to SegmentationLogits, a Flax module.
      prepare: image -> normalised float32 images.
      key: the run's random key.
      auxiliary_weight: of the auxiliary head's loss.
      class_weights: (K,) weights of pixels by class; (): all alike.
      options: see `update`.

    Returns:
      See `pretrain_step`.
    """
    weigh = partial(pixel_weights, class_weights=tuple(class_weights))
    # Counted over the batch: its parts and shards hold other numbers of labelled pixels.
    share = options.get("accumulation", 1) / jnp.maximum(weigh(batch["mask"]).sum(), 1e-9)
    batch = {**batch, "share": jnp.full(len(batch["mask"]), share)}

    def loss_fn(params, collections, part, rngs):
        variables = {"params": params, **collections}
        images, mask = prepare(part["image"]), part["mask"]
        logits, collections = model.apply(variables, images, mutable=list(collections), rngs=rngs)
        weights = weigh(mask) * part["share"][:, None, None]
        loss = pixel_loss(logits.main, mask, weights)
        if logits.auxiliary is not None:
            loss += auxiliary_weight * pixel_loss(logits.auxiliary, mask, weights)
        return loss, collections

    return update(state, batch, loss_fn, key=key, **options)


def pixel_weights(mask: jax.Array, class_weights: Sequence[float] = ()) -> jax.Array:
    """Return (B, H, W) float32 weights of pixels in the loss: 0 without a label, else that of the class."""
    if not class_weights:
        return (mask >= 0).astype(jnp.float32)
    return jnp.where(mask >= 0, jnp.asarray(class_weights, jnp.float32)[jnp.maximum(mask, 0)], 0.0)


def pixel_loss(logits: jax.Array, mask: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted sum of pixels' cross-entropies; logits (B, h, w, K) are resized to the mask."""
    resized = resize_bilinear(logits, (mask.shape[1], mask.shape[2]))
    labels = jnp.maximum(mask, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(resized, labels)
    return (losses * weights).sum()


def update(
    state: TrainState,
    batch: Any,
    loss_fn: Callable,
    *,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    key: jax.Array,
    accumulation: int = 1,
    into_parts: Callable[[Any, int], Any] = split_strided,
    ema_decay: float = 0.0,
    gradient_dtype: DTypeLike = jnp.float32,
    split: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Make one update with the gradients of a loss.

    Args:
      batch: tree of arrays (B, ...).
      loss_fn: see `mean_gradients`.
      optimizer: without a learning rate.
      schedule: step -> learning rate.
      key: the run's random key.
      accumulation: number of parts that the batch is computed in, one after another.
      into_parts: (batch, parts) -> the same tree of arrays (parts, B / parts, ...).
      ema_decay: decay of the moving averages, if the state has them.
      gradient_dtype: in which gradients of kernels are summed over devices, see `_cast_kernels`.
      split: a tree of the shapes of the parameters -> the same, split over devices as the optimizer state.

    Returns:
      See `pretrain_step`. If the loss or the gradients are not finite, only the counters change.
    """
    cast = dataclasses.replace(state, params=_cast_kernels(state.params, gradient_dtype))
    loss, collections, grads = mean_gradients(loss_fn, cast, batch, accumulation, into_parts, key)
    # On shards, gradients are scattered where they are summed, and new parameters are gathered at the end.
    grads = jax.tree.map(lambda grad, param: grad.astype(param.dtype), split(grads), state.params)
    state = dataclasses.replace(state, params=split(state.params))
    return _apply_gradients(state, loss, collections, grads, optimizer, schedule, ema_decay)


def _cast_kernels(params, dtype):
    """Return parameters with their kernels in a dtype, which is that of their gradients too.

    Layers multiply in bfloat16 by a rounded kernel anyway. Other parameters, and their gradients, are few.
    """

    def cast(path, leaf):
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


@jax.named_scope("optimizer")  # a class of kernels in profiles
def _apply_gradients(state, loss, collections, grads, optimizer, schedule, ema_decay):
    """Return the next state and the metrics; if a value is not finite, only the counters change."""
    lr, grad_norm = schedule(state.step), optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, optax.tree.scale(-lr, updates))
    ema = {"params": params, "collections": collections} if state.ema else {}
    # optax.incremental_update sums in the other order, which rounds differently: resumed runs would change.
    ema = jax.tree.map(lambda old, new: ema_decay * old + (1 - ema_decay) * new, state.ema, ema)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updated = dataclasses.replace(
        state, params=params, collections=collections, opt_state=opt_state, ema=ema
    )
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    metrics = {"loss": loss, "grad_norm": grad_norm, "lr": lr}
    return state, {**metrics, "skipped": state.skipped, "skipped_in_row": state.skipped_in_row}


def forward(variables, batch, index, *, method, prepare, key):
    """Return (the method's Output, the normalised images) of one batch, with the mask of batch `index`."""
    images = prepare(batch["image"], batch["flip"])
    noise = mask_noise(key, index, method.noise_shape(images.shape))
    noise = method.arrange_noise(noise, images.shape)
    return method.apply(variables, images, noise=noise), images


def eval_step(variables, batch, index, **options):
    """Return the loss of one batch; arguments: see `forward`."""
    return forward(variables, batch, index, **options)[0].loss


def constant_step(variables, batch, index, guess, **options):
    """Return the loss of predicting `guess` (P,) for every token of one batch, and its mean target (P,).

    The compiler drops the network itself.
    """
    out, _ = forward(variables, batch, index, **options)
    prediction = jnp.broadcast_to(guess, out.target.shape)
    loss = options["method"].loss_fn(prediction, out.target, out.loss_weight)
    return loss, mean_target(out.target, out.loss_weight)


def classify_step(variables, batch, *, model, prepare):
    """Classify one batch of centre crops, row by row.

    Args:
      variables: of the model, {"params": ..., ...}.
      batch: {"image", "label", "index", "valid", "undecodable"} of `data.eval_batches`.
      model: from images to logits (B, K), a Flax module.
      prepare: (image, flip) -> normalised float32 images.

    Returns:
      {"best" (B, 5): likeliest classes first, "probability" (B, 5), "rank" (B,): number of classes likelier
      than the true one, "loss" (B,): cross-entropy}, and the batch without its images.
    """
    flip = jnp.zeros(len(batch["image"]), bool)
    logits = model.apply(variables, prepare(batch["image"], flip))
    label = jnp.maximum(batch["label"], 0)[:, None]
    own = jnp.take_along_axis(logits, label, axis=1)
    # Of equal logits the first counts as likelier, as in top_k.
    tied_before = (logits == own) & (jnp.arange(logits.shape[1]) < label)
    probability, best = jax.lax.top_k(jax.nn.softmax(logits), min(TOP, logits.shape[1]))
    return {
        "best": best,
        "probability": probability,
        "rank": ((logits > own) | tied_before).sum(1),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, label[:, 0]),
        **{name: x for name, x in batch.items() if name != "image"},
    }
