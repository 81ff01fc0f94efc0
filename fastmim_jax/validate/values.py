"""Checks of single config keys: types, ranges and names."""

from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.build import METHODS
from fastmim_jax.data.masks import KINDS as LAYOUTS
from fastmim_jax.data.values import WHITE
from fastmim_jax.errors import UserError, nearest
from fastmim_jax.mim.crossmae import FEATURE_MAPS
from fastmim_jax.mim.mask_noise import COLORS
from fastmim_jax.mim.partial import FILLS, SOURCES
from fastmim_jax.mim.sampling import SAMPLERS
from fastmim_jax.mim.targets import TARGETS
from fastmim_jax.models.attention_kernels import KERNELS
from fastmim_jax.models.dense.heads import HEADS
from fastmim_jax.models.dense.segmenter import SCALES
from fastmim_jax.models.heads import POOLINGS
from fastmim_jax.models.positions import POSITIONS
from fastmim_jax.models.stack import REMAT_POLICIES
from fastmim_jax.models.vit import RELATIVE_POSITIONS
from fastmim_jax.saved_config import default_config, flatten, kind_of
from fastmim_jax.segment_config import WITHOUT
from fastmim_jax.stages import AUTO
from fastmim_jax.validate.names import flag
from fastmim_jax.validate.rules import (
    Rule,
    ascending,
    boolean,
    choice,
    either,
    integer,
    is_number,
    number,
    optional,
    several,
    text,
)
from fastmim_jax.validate.training import check_data, check_loggers

DTYPES = ("bfloat16", "float32")
LAYERS = ("unrolled", "scanned")
RESIDUAL_DTYPES = ("", "float32")
VIEWS = ("crops", "masks")  # of one image
LARGEST_SIDE = 2**15  # pixels
MOST_BLOCKS = 1000  # of a model
LARGEST_WIDTH = 2**16  # channels, or tokens in a row
SHAPES = ("cosine", "poly", "step")  # of the learning rate, see `train.optimizer.make_schedule`


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()  # the value of a key that a config lacks
SHARE = number(0, 1)
POSITIVE = number(above=0)
FROM_ZERO = number(0)
SIDE = integer(1, most=LARGEST_SIDE)
WIDTH = integer(1, most=LARGEST_WIDTH)
RATIO = number(above=0, most=1000)  # of hidden to other channels
EPSILON = number(above=0, below=1)
SIZE = several(SIDE, f"(height, width) in pixels such as (128, 128), up to {LARGEST_SIDE}", lengths=(2,))
SIZE_OR_OF_INIT = several(
    SIDE, f"(height, width) in pixels such as (224, 224), up to {LARGEST_SIDE}, or ()", lengths=(0, 2)
)
PER_CHANNEL = "a number per channel, or () for ImageNet's"


def or_auto(rule: Rule) -> Rule:
    """Return the rule of a value, or of "auto", which is chosen when the run begins."""
    return either(rule, choice([AUTO]), f"{rule.expected}, or auto", rule.example)


ACCUMULATION = either(integer(1), choice([AUTO]), "an integer of at least 1, or auto", AUTO)
OF_STAGES = "a tuple with one entry per stage, or ()"

DATA = {
    **{key: text(empty=False) for key in ("path", "split")},
    "image_size": SIZE,
    "channels": integer(1, most=1024),
    "mean": several(number(), PER_CHANNEL),
    "std": several(POSITIVE, f"{PER_CHANNEL}, all above 0"),
    "crop_scale": ascending(number(above=0, most=1), "two shares of the area in ascending order"),
    "crop_ratio": ascending(POSITIVE, "two ratios width / height in ascending order"),
    "cache": Rule(lambda x: x in ("", "ram"), "'ram' or ''"),
    "crop_on": choice(("host", "device")),
    "max_pixels": integer(1),
    "value_range": several(number(), "(lowest, highest), or ()", (0, 4095), lengths=(0, 2)),
    "nodata": optional(Rule(lambda x: is_number(x) and abs(x) < 3.5e38, "a float32 number", -9999.0)),
    "pixel_dtype": choice(["", *WHITE]),
    "max_bad_share": SHARE,
    **{key: text() for key in ("eval_path", "eval_split")},
}
BACKBONE = {
    "name": text("vit_b16"),
    **{key: optional(integer(1, 16, LARGEST_SIDE)) for key in ("patch_size", "window")},
    "depth": optional(integer(1, 12, MOST_BLOCKS)),
    "width": optional(integer(1, 768, LARGEST_WIDTH)),
    "norm_groups": optional(integer(1, 1)),
    **{
        key: optional(
            several(
                integer(1, most=most), f"integers of at least 1 and at most {most}, one per stage", example
            )
        )
        for key, example, most in (
            ("depths", (2, 2, 6, 2), MOST_BLOCKS),
            ("widths", (64, 128, 256, 512), LARGEST_WIDTH),
            ("windows", (14, 14, 14, 7), LARGEST_SIDE),
        )
    },
    "mlp_ratios": optional(several(RATIO, "numbers above 0, one per stage", (8, 8, 4, 4))),
    "heads": optional(
        either(WIDTH, several(WIDTH, ""), "an integer of at least 1, or a tuple of one per stage", 12)
    ),
    "mlp_ratio": optional(number(above=0, most=1000, example=4.0)),
    "positions": optional(choice(POSITIONS)),
    "relative_positions": optional(choice(RELATIVE_POSITIONS)),
    "class_token": optional(boolean()),
    "class_tokens": optional(integer(1, 8, MOST_BLOCKS)),
    "layer_scale": optional(number(0, example=0.1)),
    "drop_path": optional(number(0, below=1, example=0.1)),
}
COMPUTE = {
    "dtype": choice(DTYPES),
    "kernel": choice(KERNELS),
    "remat": choice(REMAT_POLICIES),
    "layers": choice(LAYERS),
    "residual_dtype": choice(RESIDUAL_DTYPES),
}
OPTIMIZER = {
    "base_lr": or_auto(FROM_ZERO),
    **{key: FROM_ZERO for key in ("min_base_lr", "warmup_base_lr", "weight_decay", "clip_norm")},
    "betas": several(number(0, below=1), "two numbers of at least 0 and below 1", lengths=(2,)),
    "epsilon": EPSILON,
    "gradient_dtype": choice(reversed(DTYPES)),
}
SCHEDULE = {
    "batch_size": or_auto(integer(1)),
    "accumulation": ACCUMULATION,
    "epochs": or_auto(POSITIVE),
    "steps": integer(0),
    "warmup_epochs": or_auto(FROM_ZERO),
    "shape": choice(SHAPES),
    "decay_epochs": POSITIVE,
}
RUN = {
    **{key: integer(0) for key in ("log_every", "checkpoint_every", "keep_every")},
    **{key: integer(1) for key in ("keep", "max_failed_saves", "max_skipped", "mesh_fsdp")},
    "loggers": several(text(), "a tuple of names, or ()", ("tensorboard",)),
    "project": text(),
    "verify_checkpoints": boolean(),
    **dict.fromkeys(("disk_timeout_seconds", "upload_timeout_seconds"), FROM_ZERO),
    **dict.fromkeys(("grace_seconds", "peer_timeout_seconds"), POSITIVE),
    "workers": integer(-1, most=4096),
    "threads": integer(1, most=1024),
    "max_worker_restarts": integer(0, most=10**6),
    "shard_optimizer_state": boolean(),
}
METHOD = {
    "name": choice(METHODS),
    "block_size": SIDE,
    "mask_ratio": number(above=0, below=1),
    "mask_noise": choice(COLORS),
    "fuse_layers": several(integer(1, most=MOST_BLOCKS), "a tuple of block numbers, or ()", (1, 6, 12)),
    "local_layers": several(integer(1, most=MOST_BLOCKS), "a tuple of numbers of layers, or ()", (2, 4)),
    "target_scales": several(integer(2, most=LARGEST_SIDE), "a tuple of sides in pixels, or ()", (8, 16)),
    "feature_maps": choice(FEATURE_MAPS),
    "mask_grid": integer(1, 4, LARGEST_SIDE),
    "groups": integer(1),
    "target": choice(TARGETS),
    "normalize_target": boolean(),
}
DECODER = {
    "width": WIDTH,
    "depth": integer(0, most=MOST_BLOCKS),
    "mlp_ratio": RATIO,
    "heads": optional(integer(1, 8, LARGEST_WIDTH)),
    "epsilon": EPSILON,
}
PARTIAL = {
    "throw_ratio": number(0, below=1, example=0.5),
    "sampler": choice(SAMPLERS),
    "fill": choice(FILLS),
    "aggregate": choice(SOURCES),
    "stages": integer(1, most=MOST_BLOCKS),
    "thrown_weight": FROM_ZERO,
}
STAGES = {
    "image_sizes": several(
        either(SIDE, several(SIDE, "", lengths=(2,)), ""),
        "a side, or (height, width), in pixels for each stage",
        (128, 160, 192),
    ),
    "start_epochs": several(FROM_ZERO, OF_STAGES),
    "batch_sizes": several(integer(1), OF_STAGES),
    "accumulations": several(ACCUMULATION, f"{OF_STAGES}, of integers of at least 1 or 'auto'"),
    "block_sizes": several(SIDE, OF_STAGES),
    "windows": several(integer(0, most=LARGEST_SIDE), f"{OF_STAGES}, of integers of at least 0"),
}
MODEL = {
    "pooling": optional(choice(POOLINGS)),
    "pooling_width": optional(integer(1, 1280, LARGEST_WIDTH)),
    "classes": optional(integer(1, 1000, 10**6)),
}
AUGMENT = {
    "magnitude": number(0, 10),
    "magnitude_std": FROM_ZERO,
    "mixup": FROM_ZERO,
    "cutmix": FROM_ZERO,
    **{key: SHARE for key in ("random_erasing", "mix_probability", "mix_switch", "label_smoothing")},
    "mix_groups": integer(1),
    "repeated_augmentation": integer(1),
}
POSITION_GRID = several(WIDTH, "(rows, columns) of cells", (14, 14), lengths=(2,))


def _rules(**sections: dict[str, Rule]) -> dict[str, Rule]:
    return {f"{section}.{key}": rule for section, rules in sections.items() for key, rule in rules.items()}


def _compute_section(section: str) -> dict[str, Rule]:
    return {
        **{f"{section}.backbone.{key}": rule for key, rule in BACKBONE.items()},
        **{f"{section}.{key}": rule for key, rule in COMPUTE.items()},
    }


COMMON = {
    "seed": integer(0, most=2**32 - 1),
    "init": text(),
    **_rules(data=DATA, optimizer=OPTIMIZER, schedule=SCHEDULE, run=RUN),
}
PRETRAIN_RULES = {
    **COMMON,
    "data.eval_records": integer(1),
    "data.views_per_image": integer(1),
    "data.views": choice(VIEWS),
    **_rules(method=METHOD, stages=STAGES),
    **_compute_section("method"),
    **{f"method.decoder.{key}": rule for key, rule in DECODER.items()},
    **{f"method.partial.{key}": rule for key, rule in PARTIAL.items()},
    "optimizer.no_decay": several(text(empty=False), "a tuple of parameter names", ("mask_token",)),
    "monitor.path": text(),
    "monitor.masks": text(),
    "monitor.epochs": POSITIVE,
    "monitor.images": integer(1),
    "run.eval_every": integer(0),
    "run.picture_every": integer(0),
}
FINETUNE_RULES = {
    **COMMON,
    "data.image_size": SIZE_OR_OF_INIT,
    "data.eval_share": number(0, below=1),
    "data.eval_resize": optional(integer(1, 256, LARGEST_SIDE)),
    **_rules(model=MODEL, augment=AUGMENT),
    **_compute_section("model"),
    "model.backbone.name": text("vit_b16"),
    "model.backbone.position_grid": optional(POSITION_GRID),
    "optimizer.layer_decay": number(above=0, most=1),
    "optimizer.official": boolean(),
    "optimizer.ema_decay": number(0, below=1),
    "run.eval_epochs": FROM_ZERO,
    "run.patience_epochs": FROM_ZERO,
    "run.baseline_images": integer(0),
}
# Segmentation reads masks, and neither crops by area nor augments as fine-tuning does.
HEAD = {
    "name": choice(HEADS),
    "channels": integer(2, most=LARGEST_WIDTH),
    "layers": several(
        integer(1, most=MOST_BLOCKS),
        f"numbers of {SCALES} blocks, or ()",
        (2, 4, 10, 12),
        lengths=(0, SCALES),
    ),
    "dropout": number(0, below=1),
    "auxiliary_channels": integer(0, most=LARGEST_WIDTH),
    "auxiliary_input": integer(1, most=SCALES),
}
SEGMENT_RULES = {
    **{key: rule for key, rule in COMMON.items() if key not in {f"data.{name}" for name in WITHOUT}},
    "data.path": text(),
    "data.channels": integer(3, most=3),
    "data.image_size": SIZE_OR_OF_INIT,
    "data.pixel_dtype": Rule(lambda x: x in ("", "uint8"), "'uint8' or ''"),
    "data.kind": choice(("auto", *LAYOUTS)),
    "data.legend": text(),
    "data.scale": ascending(POSITIVE, "two factors above 0 in ascending order"),
    "data.max_class_share": SHARE,
    "data.photometric_distortion": number(0, most=2),
    "data.eval_mode": choice(("slide", "whole")),
    "data.eval_resize": optional(integer(1, 512, LARGEST_SIDE)),
    "data.eval_stride": several(SIDE, "(rows, columns) in pixels, or ()", (341, 341), lengths=(0, 2)),
    **_compute_section("model"),
    "model.backbone.name": text("vit_b16"),
    "model.backbone.position_grid": optional(POSITION_GRID),
    **_rules(**{"model.head": HEAD}),
    "model.classes": optional(integer(1, 150, 2**15 - 1)),  # masks are int16
    "loss.auxiliary_weight": FROM_ZERO,
    "loss.class_weights": several(FROM_ZERO, "a weight per class, or ()", (1.0, 2.0)),
    "optimizer.layer_decay": number(above=0, most=1),
    "optimizer.official": boolean(),
    "optimizer.ema_decay": number(0, below=1),
    **dict.fromkeys(("run.eval_epochs", "run.patience_epochs"), FROM_ZERO),
    **dict.fromkeys(("run.pictures", "run.baseline_images"), integer(0)),
}
RULES = {"pretrain": PRETRAIN_RULES, "finetune": FINETUNE_RULES, "segment": SEGMENT_RULES}


def check_values(config: ConfigDict) -> None:
    """Check the value of every key, without building anything.

    Raises:
      UserError: a value of another type, out of range, or an unknown name.
    """
    defaults = flatten(default_config(config))
    for key, rule in RULES[kind_of(config)].items():
        value = _value(config, key)
        if not rule.accepts(value):
            raise UserError(_sentence(key, value, rule, defaults[key]))
    check_data(config.data)
    check_loggers(config.run)


def _value(config: Any, key: str) -> Any:
    """Return the value of a key, or MISSING."""
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return MISSING
        config = config[part]
    return config


def _sentence(key: str, value: Any, rule: Rule, default: Any) -> str:
    value = "{...}" if isinstance(value, ConfigDict) else value
    if rule.names:
        meant = nearest(value, rule.names) if isinstance(value, str) else ""
        hint = f"; did you mean {flag(key, meant)}?" if meant else f" (type {flag(key, 'NAME')})"
        return f"config.{key} is {value!r}; {rule.expected}{hint}"
    example = flag(key, rule.example if rule.example is not None else default)
    return f"config.{key} is {value!r}, expected {rule.expected}: type {example}"
