"""AdamW with the published weight-decay groups, and the learning-rate schedules."""

import re

import jax
import jax.numpy as jnp
import optax

# Every parameter belongs to exactly one group, by the last part of its path. As published (timm's
# add_weight_decay without a skip list), tokens and tables decay; only biases and norms are spared.
GROUPS = {
    "no_decay": re.compile(r"(bias|scale|gamma|pos_embed|pos_embed_cls|position_scale)$"),
    "decay": re.compile(
        r"(kernel|cls_token|mask_token|thrown_token|relative_position_bias_table|relative_position"
        r"|cls_relative_position_bias)$"
    ),
}


def decay_groups(params, spared=()):
    """{path: group} tree of the same structure as `params`, values "decay" or "no_decay".

    Args:
      spared: last parts of names of more parameters that do not decay.

    Raises:
      ValueError: a parameter that no group, or more than one, covers; a spared one that is not there.
    """
    seen = set()

    def group(path, _):
        name = "/".join(str(key.key) for key in path)
        last = name.split("/")[-1]
        seen.add(last)
        found = [group for group, pattern in GROUPS.items() if pattern.match(last)]
        if len(found) != 1:
            raise ValueError(f"parameter {name} is in {len(found)} weight-decay groups, expected 1")
        return "no_decay" if last in spared else found[0]

    groups = jax.tree_util.tree_map_with_path(group, params)
    if not seen.issuperset(spared):
        missing = ", ".join(sorted({*spared} - seen))
        raise ValueError(f"no parameter is named {missing}, which config.optimizer.spared asks for")
    return groups


def make_optimizer(params, *, betas, epsilon, weight_decay, clip_norm=0.0, spared=()):
    """Gradients -> update directions; the step multiplies them by minus the learning rate.

    Args:
      params: the parameter tree or its shapes, to assign the groups.
      clip_norm: largest global norm of the gradients, 0 for no limit.
      spared: as of `decay_groups`.
    """
    decays = jax.tree.map(lambda group: group == "decay", decay_groups(params, spared))
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=epsilon),
        optax.add_decayed_weights(weight_decay, mask=decays),
    )


def learning_rate(epoch, *, peak, floor, warmup, total, shape="cosine", decay_epochs=100.0, start=0.0):
    """Learning rate at a fractional epoch: from `start` straight up to `peak`, then down.

    Args:
      epoch: epochs done before this update, a float or array.
      warmup, total: epochs.
      shape: "cosine": half a cosine down to `floor` at `total`; "step": x 0.1 every `decay_epochs`.
    """
    if shape == "cosine":
        done = (epoch - warmup) / max(total - warmup, 1e-9)
        after = floor + (peak - floor) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
    else:
        after = peak * 0.1 ** jnp.floor(epoch / decay_epochs)
    return jnp.where(epoch < warmup, start + (peak - start) * epoch / max(warmup, 1e-9), after)
