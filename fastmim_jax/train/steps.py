"""One update and one evaluation, as pure functions of their arguments."""

import jax
import jax.numpy as jnp
import optax

from fastmim_jax.mim.losses import mean_target


def mask_noise(key, step, shape):
    """The uniform noise that decides what is hidden: a function of the seed and the step alone."""
    return jax.random.uniform(jax.random.fold_in(key, step), shape)


def pretrain_step(state, batch, *, method, prepare, optimizer, schedule, key, accumulation=1):
    """One update.

    Args:
      state: TrainState.
      batch: {"image": (B, H, W, C) uint8, "flip": (B,) bool}.
      method: a pre-training method, a Flax module.
      prepare: (image, flip) -> normalised float32 images.
      optimizer: gradients -> update directions.
      schedule: step -> learning rate.
      key: the run's random key.
      accumulation: parts that the batch is computed in, one after another.

    Returns:
      The next state and {"loss", "grad_norm", "lr", "skipped", "skipped_in_row"}, scalars. An update
      whose loss or gradients are not finite changes nothing but the counters.
    """
    batch = {
        **batch,
        "noise": mask_noise(key, state.step, method.noise_shape(batch["image"].shape)),
    }

    def loss_of(params, collections, part):
        variables = {"params": params, **collections}
        images = prepare(part["image"], part["flip"])
        out, collections = method.apply(variables, images, noise=part["noise"], mutable=list(collections))
        return out.loss, collections

    loss, collections, grads = _mean_gradients(loss_of, state, batch, accumulation)
    lr, grad_norm = schedule(state.step), optax.tree.norm(grads)
    directions, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - lr * d, state.params, directions)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updated = state.replace(params=params, collections=collections, opt_state=opt_state)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    state = state.replace(
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
    )
    metrics = {"loss": loss, "grad_norm": grad_norm, "lr": lr}
    return state, {**metrics, "skipped": state.skipped, "skipped_in_row": state.skipped_in_row}


def _mean_gradients(loss_of, state, batch, parts):
    """Loss, collections and gradients of a batch, computed in `parts` equal parts."""
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if parts == 1:
        (loss, collections), grads = gradient(state.params, state.collections, batch)
        return loss, collections, grads

    def split(x):  # strided, so that each part is spread over the same devices as the whole
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def body(carry, part):
        total, collections, sums = carry
        (loss, collections), grads = gradient(state.params, collections, part)
        return (total + loss, collections, jax.tree.map(jnp.add, sums, grads)), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    start = (jnp.zeros(()), state.collections, zeros)
    (loss, collections, sums), _ = jax.lax.scan(body, start, jax.tree.map(split, batch))
    return loss / parts, collections, jax.tree.map(lambda x: x / parts, sums)


def forward(state, batch, index, *, method, prepare, key):
    """-> (the method's Output, the normalised images) of one batch, with the mask of batch `index`."""
    noise = mask_noise(key, index, method.noise_shape(batch["image"].shape))
    variables = {"params": state.params, **state.collections}
    images = prepare(batch["image"], batch["flip"])
    return method.apply(variables, images, noise=noise), images


def eval_step(state, batch, index, **parts):
    """The loss of one batch; arguments as `forward`."""
    return forward(state, batch, index, **parts)[0].loss


def constant_step(state, batch, index, guess, **parts):
    """The loss of predicting `guess` (P,) for every token of one batch, and the mean target (P,) of it.

    The compiler drops the network itself.
    """
    out, _ = forward(state, batch, index, **parts)
    prediction = jnp.broadcast_to(guess, out.target.shape)
    loss = parts["method"].error(prediction, out.target, out.counted)
    return loss, mean_target(out.target, out.counted)
