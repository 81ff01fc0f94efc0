"""AdamW with the published weight-decay groups, layer-wise learning rates, and the schedules."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fastmim_jax.validate import check_no_decay

# Every parameter belongs to exactly one group, by the last part of its path. As published (timm's
# add_weight_decay without a skip list), tokens and tables decay; only biases and norms do not.
GROUPS = {
    "no_decay": re.compile(r"(bias|scale|gamma|pos_embed|pos_embed_cls|position_scale)$"),
    "decay": re.compile(
        r"(kernel|cls_token|mask_token|thrown_token|relative_position_bias_table|relative_position"
        r"|cls_relative_position_bias|map_weights|layer_weights)$"
    ),
}

# The parameters of the group "decay" that are not kernels.
TABLES = (
    "cls_token",
    "mask_token",
    "relative_position_bias_table",
    "relative_position",
    "cls_relative_position_bias",
)


def decay_groups(params: Any, no_decay: Sequence[str] = ()) -> Any:
    """Return a tree of the structure of `params` with values "decay" or "no_decay".

    Args:
      no_decay: last parts of the paths of further parameters that do not decay.

    Raises:
      ValueError: a parameter is in no group or in both; no parameter has a name of `no_decay`.
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
    check_no_decay(no_decay, seen)
    return groups


def make_optimizer(
    params: Any,
    *,
    betas: Sequence[float],
    epsilon: float,
    weight_decay: float,
    clip_norm: float = 0.0,
    no_decay: Sequence[str] = (),
    scales: Any = None,
) -> optax.GradientTransformation:
    """Return AdamW without a learning rate; the training step multiplies its updates by minus the rate.

    Args:
      params: the parameter tree or its shapes, to assign the groups.
      clip_norm: largest global norm of the gradients, 0 for no limit.
      no_decay: see `decay_groups`.
      scales: tree of factors for the learning rate of each parameter, decay included; or None.
    """
    decays = jax.tree.map(lambda group: group == "decay", decay_groups(params, no_decay))
    transforms = [  # each has an entry in the checkpoints, also the identity
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=epsilon),
        optax.add_decayed_weights(weight_decay, mask=decays),
    ]
    return optax.chain(*transforms, *([] if scales is None else [_scale_by(scales)]))


def _scale_by(scales):
    return optax.stateless(lambda updates, params: optax.tree.mul(updates, scales))


def layer_lr_scales(params: Any, encoder: nn.Module, decay: float, official: bool = False) -> Any:
    """Return the layer-wise factors of a classifier's learning rate: decay ** number of groups above.

    Args:
      params: of `fastmim_jax.models.heads.Classifier`, or their shapes.
      encoder: its backbone, whose `layer_group` gives the group of a parameter.
      decay: learning rate of a group relative to the next one's; the last has 1.
      official: as published: the head is `official_tail_groups` groups after the last block.
    """
    last = encoder.num_blocks + 1
    tail = encoder.num_blocks + encoder.official_tail_groups if official else last

    def scale(path, _):
        name, *rest = (key.key for key in path)
        group = encoder.layer_group("/".join(rest)) if name == "encoder" else tail
        return decay ** (last - min(group, tail))

    return jax.tree_util.tree_map_with_path(scale, params)


def no_decay_names(params: Any, encoder: nn.Module, official: bool = False) -> tuple[str, ...]:
    """Return the last parts of the paths of tokens and position tables that do not decay in fine-tuning.

    official: as published, only the names excluded by the published code of this backbone.
    """
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    excluded = encoder.official_no_decay if official else TABLES
    return tuple(sorted(names.intersection(excluded)))


def make_schedule(
    *,
    peak: float,
    floor: float,
    warmup: float,
    total: float,
    shape: str = "cosine",
    decay_epochs: float = 100.0,
    start: float = 0.0,
) -> optax.Schedule:
    """Return the learning rate as a function of the epochs done, fractions included.

    Args:
      warmup, total: epochs. The rate rises linearly from `start` to `peak` during the warm-up.
      shape: "cosine": half a cosine down to `floor` at `total`; "step": x 0.1 every `decay_epochs`; "poly":
        a line from `peak` at 0 to `floor` at `total`, whose part in the warm-up is scaled, as in mmcv.

    >>> schedule = make_schedule(peak=1.0, floor=0.0, warmup=5.0, total=105.0)
    >>> [round(float(schedule(epoch)), 3) for epoch in (0, 2.5, 5, 55, 105)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    cosine = optax.cosine_decay_schedule(1.0, decay_steps=1.0)
    step_decay = optax.exponential_decay(peak, decay_epochs, 0.1, staircase=True)
    # Optax's linear_schedule, and the alpha of its cosine, round differently: resumed runs would change.
    slope, span = max(warmup, 1e-9), max(total - warmup, 1e-9)

    def schedule(epoch):
        top = peak
        if shape == "cosine":
            decayed = floor + (peak - floor) * cosine((epoch - warmup) / span)
        elif shape == "poly":
            top = decayed = floor + (peak - floor) * jnp.maximum(0.0, 1 - epoch / max(total, 1e-9))
        else:
            decayed = step_decay(epoch)
        return jnp.where(epoch < warmup, start + (top - start) * epoch / slope, decayed)

    return schedule
