"""AdamW with the published weight-decay groups, layer-wise learning rates, and the schedules."""

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

# Of the group "decay", what is no kernel.
TABLES = (
    "cls_token",
    "mask_token",
    "relative_position_bias_table",
    "relative_position",
    "cls_relative_position_bias",
)


def decay_groups(params, no_decay=()):
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
        return "no_decay" if last in no_decay else found[0]

    groups = jax.tree_util.tree_map_with_path(group, params)
    if not seen.issuperset(no_decay):
        missing = ", ".join(sorted({*no_decay} - seen))
        raise ValueError(f"no parameter is named {missing}, which config.optimizer.no_decay asks for")
    return groups


def make_optimizer(params, *, betas, epsilon, weight_decay, clip_norm=0.0, no_decay=(), scales=None):
    """Gradients -> update directions; the step multiplies them by minus the learning rate.

    Args:
      params: the parameter tree or its shapes, to assign the groups.
      clip_norm: largest global norm of the gradients, 0 for no limit.
      spared: as of `decay_groups`.
      scales: a number per parameter that its learning rate, decay included, is multiplied by; or None.
    """
    decays = jax.tree.map(lambda group: group == "decay", decay_groups(params, no_decay))
    parts = [  # each has a place in the checkpoints, also where it does nothing
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=epsilon),
        optax.add_decayed_weights(weight_decay, mask=decays),
    ]
    return optax.chain(*parts, *([] if scales is None else [_scaled(scales)]))


def _scaled(scales):
    def update(updates, params=None):
        return jax.tree.map(lambda update, scale: update * scale, updates, scales)

    return optax.stateless(update)


def layer_lr_scales(params, encoder, decay, official=False):
    """Layer-wise learning rates of a classifier: {path: decay ** groups behind it} in the tree of `params`.

    Args:
      params: of `fastmim_jax.models.heads.Classifier`, or their shapes.
      encoder: its backbone, whose `layer_group` says which parameters learn at one rate.
      decay: learning rate of a group as a share of the next one's; the last has 1.
      official: as published: the head is `official_tail_groups` groups after the last block.
    """
    last = encoder.num_blocks + 1
    tail = encoder.num_blocks + encoder.official_tail_groups if official else last

    def scale(path, _):
        name, *rest = (key.key for key in path)
        group = encoder.layer_group("/".join(rest)) if name == "encoder" else tail
        return decay ** (last - min(group, tail))

    return jax.tree_util.tree_map_with_path(scale, params)


def no_decay_names(params, encoder, official=False):
    """Last parts of names of tokens and tables of positions that do not decay in fine-tuning: all of them.

    official: as published, only those that the published code of this backbone spares.
    """
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    wanted = encoder.official_no_decay if official else TABLES
    return tuple(sorted(names.intersection(wanted)))


def learning_rate(epoch, *, peak, floor, warmup, total, shape="cosine", decay_epochs=100.0, start=0.0):
    """Learning rate at a fractional epoch: from `start` straight up to `peak`, then down.

    Args:
      epoch: epochs done before this update, a float or array.
      warmup, total: epochs.
      shape: "cosine": half a cosine down to `floor` at `total`; "step": x 0.1 every `decay_epochs`.

    >>> epochs = jnp.array([0.0, 5.0, 10.0, 30.0, 50.0])
    >>> learning_rate(epochs, peak=1.0, floor=0.0, warmup=10, total=50).round(3)
    Array([0. , 0.5, 1. , 0.5, 0. ], dtype=float32)
    """
    if shape == "cosine":
        done = (epoch - warmup) / max(total - warmup, 1e-9)
        after = floor + (peak - floor) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
    else:
        after = peak * 0.1 ** jnp.floor(epoch / decay_epochs)
    return jnp.where(epoch < warmup, start + (peak - start) * epoch / max(warmup, 1e-9), after)
