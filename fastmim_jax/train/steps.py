"""One update and one evaluation, as pure functions of their arguments."""

import jax
import jax.numpy as jnp
import optax

from fastmim_jax.mim.losses import mean_target

TOP = 5  # likeliest classes of an image that are returned


def mask_noise(key, step, shape):
    """The uniform noise that decides what is hidden: a function of the seed and the step alone."""
    return jax.random.uniform(jax.random.fold_in(key, step), shape)


def pretrain_step(state, batch, *, method, prepare, key, **training):
    """One update.

    Args:
      state: TrainState.
      batch: {"image": (B, H, W, C) uint8, "flip": (B,) bool}.
      method: a pre-training method, a Flax module.
      prepare: (image, flip) -> normalised float32 images.
      key: the run's random key.
      training: as of `update`.

    Returns:
      The next state and {"loss", "grad_norm", "lr", "skipped", "skipped_in_row"}, scalars.
    """
    batch = {
        **batch,
        "noise": mask_noise(key, state.step, method.noise_shape(batch["image"].shape)),
    }

    def loss_of(params, collections, part, rngs):
        variables = {"params": params, **collections}
        images = prepare(part["image"], part["flip"])
        out, collections = method.apply(
            variables, images, noise=part["noise"], mutable=list(collections), rngs=rngs
        )
        return out.loss, collections

    return update(state, batch, loss_of, key=key, **training)


def finetune_step(state, batch, *, model, prepare, key, **training):
    """One update of a classifier.

    Args:
      state: TrainState.
      batch: {"image": (B, H, W, C) uint8, "flip": (B,) bool, "label": (B,) int}.
      model: from images to logits, a Flax module.
      prepare: (key, batch) -> augmented float32 images and soft targets (B, K).
      key, training, and what is returned: as of `pretrain_step`.
    """
    images, targets = prepare(jax.random.fold_in(key, state.step), batch)

    def loss_of(params, collections, part, rngs):
        variables = {"params": params, **collections}
        logits, collections = model.apply(variables, part["images"], mutable=list(collections), rngs=rngs)
        return optax.softmax_cross_entropy(logits, part["targets"]).mean(), collections

    return update(state, {"images": images, "targets": targets}, loss_of, key=key, **training)


def update(state, batch, loss_of, *, optimizer, schedule, key, accumulation=1, ema_decay=0.0):
    """One update of anything.

    Args:
      state: TrainState.
      batch: tree of arrays (B, ...).
      loss_of: (params, collections, part of the batch, rngs) -> loss, new collections.
      optimizer: gradients -> update directions.
      schedule: step -> learning rate.
      key: the run's random key.
      accumulation: parts that the batch is computed in, one after another.
      ema_decay: decay of the moving averages, where the state has them.

    Returns:
      As `pretrain_step`. An update whose loss or gradients are not finite changes nothing but the counters.
    """
    loss, collections, grads = _mean_gradients(loss_of, state, batch, accumulation, key)
    lr, grad_norm = schedule(state.step), optax.tree.norm(grads)
    directions, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - lr * d, state.params, directions)
    averaged = {"params": params, "collections": collections} if state.ema else {}
    averaged = jax.tree.map(lambda old, new: ema_decay * old + (1 - ema_decay) * new, state.ema, averaged)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updated = state.replace(params=params, collections=collections, opt_state=opt_state, ema=averaged)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    state = state.replace(
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    metrics = {"loss": loss, "grad_norm": grad_norm, "lr": lr}
    return state, {**metrics, "skipped": state.skipped, "skipped_in_row": state.skipped_in_row}


def _mean_gradients(loss_of, state, batch, parts, key):
    """Loss, collections and gradients of a batch, computed in `parts` equal parts."""
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), 1)  # apart from that of the mask
    if parts == 1:
        (loss, collections), grads = gradient(state.params, state.collections, batch, _generators(key))
        return loss, collections, grads

    def split(x):  # strided, so that each part is spread over the same devices as the whole
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def body(carry, part):
        total, collections, sums = carry
        index, part = part
        rngs = _generators(jax.random.fold_in(key, index))
        (loss, collections), grads = gradient(state.params, collections, part, rngs)
        return (total + loss, collections, jax.tree.map(jnp.add, sums, grads)), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (jnp.zeros(()), state.collections, zeros)
    todo = jnp.arange(parts), jax.tree.map(split, batch)
    (loss, collections, sums), _ = jax.lax.scan(body, start, todo)
    return loss / parts, collections, jax.tree.map(lambda x: x / parts, sums)


def _generators(key):
    """Of what models drop while they train."""
    return {name: jax.random.fold_in(key, index) for index, name in enumerate(("drop_path", "dropout"))}


def forward(variables, batch, index, *, method, prepare, key):
    """Return (the method's Output, the normalised images) of one batch, with the mask of batch `index`."""
    noise = mask_noise(key, index, method.noise_shape(batch["image"].shape))
    images = prepare(batch["image"], batch["flip"])
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
