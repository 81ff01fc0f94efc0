"""The base config, its validation, and the numbers that follow from it. No other place computes them."""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fastmim_jax.errors import UserError

LR_BATCH = 256  # base learning rates are given for this many images (linear rule)
CHOICES = {
    "method.target": ("hog", "pixel"),
    "method.dtype": ("bfloat16", "float32"),
    "method.remat": ("none", "full", "dots"),
    "method.layers": ("unrolled", "scanned"),
    "method.kernel": ("xla", "cudnn"),
    "schedule.shape": ("cosine", "step"),
}


def base():
    """Every key with its default: the FastMIM ViT-B/16 recipe (README of the published code)."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.path = "sample"  # "sample", an image folder, a TFDS directory, or "tfds:NAME"
    config.data.split = "train"
    config.data.image_size = (128, 128)  # height, width in pixels
    config.data.channels = 3
    config.data.mean = ()  # per channel, of values in [0, 1]; () for ImageNet's
    config.data.std = ()
    config.data.crop_scale = (0.2, 1.0)  # share of the image's area
    config.data.crop_ratio = (3 / 4, 4 / 3)  # width / height
    config.data.max_bad_share = 0.5  # stop when more of the records than this cannot be decoded
    config.data.eval_path = ""  # a source for the held-out loss; "" takes data.path if eval_split is set
    config.data.eval_split = ""
    config.data.eval_records = 512

    config.method = ConfigDict()
    config.method.name = "fastmim"
    config.method.backbone = ConfigDict({"name": "vit_b16"})
    # Unset: as the table of models says. Tuples have one number per stage.
    for size in ("patch_size", "width", "depth", "window", "norm_groups"):
        config.method.backbone[size] = placeholder(int)
    for sizes in ("depths", "widths", "mlp_ratios"):
        config.method.backbone[sizes] = placeholder(tuple)
    config.method.backbone.heads = placeholder(object)  # a number, or a tuple where there are stages
    config.method.backbone.mlp_ratio = placeholder(float)
    config.method.block_size = 16  # pixels
    config.method.mask_ratio = 0.75
    config.method.target = "hog"
    config.method.normalize_target = True
    config.method.decoder = ConfigDict({"width": 256, "depth": 1, "mlp_ratio": 4.0})
    config.method.decoder.epsilon = 1e-6  # of its norms, as the family of the backbone was published
    config.method.dtype = "bfloat16"  # of activations; parameters, softmax, norms, HOG, loss: float32
    config.method.kernel = "xla"  # of attention; "cudnn" on NVIDIA GPUs
    config.method.remat = "none"  # "full" and "dots" trade time for memory
    config.method.layers = "unrolled"  # "scanned" compiles faster

    config.optimizer = ConfigDict()
    config.optimizer.base_lr = 1.5e-4  # for 256 images
    config.optimizer.min_base_lr = 0.0
    config.optimizer.betas = (0.9, 0.95)
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 0.0  # 0: no clipping, as published

    config.schedule = ConfigDict()
    config.schedule.batch_size = 4096  # images per update, over all devices and accumulation
    config.schedule.accumulation = 1  # parts that a batch is computed in
    config.schedule.epochs = 800.0
    config.schedule.steps = 0  # updates; above 0 it replaces epochs
    config.schedule.warmup_epochs = 20.0
    config.schedule.shape = "cosine"
    config.schedule.decay_epochs = 100.0  # of the "step" shape: learning rate x 0.1 every so many

    # What may differ when a run goes on: nothing here changes a loss.
    config.run = ConfigDict()
    config.run.log_every = 10  # steps, as all below; 0: never
    config.run.eval_every = 0
    config.run.picture_every = 1000
    config.run.checkpoint_every = 1000
    config.run.keep = 3  # newest checkpoints kept
    config.run.keep_every = 0  # checkpoints at multiples of this are kept for good
    config.run.max_skipped = 20  # non-finite steps in a row before the run stops
    config.run.workers = -1  # worker processes that read images; -1 chooses by the number of cores
    config.run.threads = 4  # per worker
    config.run.mesh_fsdp = 1  # devices that share one copy of the parameters; the rest split the batch
    return config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers that follow from a config, the size of the data and the number of devices."""

    records: int
    batch_size: int
    accumulation: int
    devices: int
    steps_per_epoch: float
    total_steps: int
    warmup_epochs: float
    peak_lr: float
    min_lr: float
    grid: tuple[int, int]  # tokens (h, w)
    blocks: tuple[int, int]  # cells that are hidden or shown as a whole
    hidden: int  # of them, hidden in every image

    def epoch(self, step):
        """Epochs done after `step` updates."""
        return step / self.steps_per_epoch

    def describe(self):
        """[(label, text)] for the start of a run."""
        blocks = self.blocks[0] * self.blocks[1]
        parts = f" in {self.accumulation} parts" if self.accumulation > 1 else ""
        per_device = self.batch_size // self.devices // self.accumulation
        return [
            ("records", f"{self.records:,}"),
            ("batch", f"{self.batch_size:,}{parts}, {per_device:,} per device at a time"),
            ("steps", f"{self.total_steps:,} = {self.epoch(self.total_steps):,.4g} epochs of "
                      f"{self.steps_per_epoch:,.4g}"),
            ("learning rate", f"{self.peak_lr:.4g} after {self.warmup_epochs:.4g} epochs of warm-up"),
            ("tokens", f"{self.grid[0]} x {self.grid[1]}"),
            ("hidden blocks", f"{self.hidden} of {self.blocks[0]} x {self.blocks[1]} = {blocks}"),
        ]  # fmt: skip


def derive(config, *, records, stride, unit, devices):
    """Validates a config against its data, backbone and devices, and computes the Plan.

    Args:
      records: images in the training data.
      stride: pixels per token of the backbone.
      unit: pixels per value of the target (8 for a HOG cell, 1 for pixels).
      devices: over all processes.

    Raises:
      UserError: a choice that cannot work, in one sentence that says what to type.
    """
    _check_choices(config)
    schedule, size = config.schedule, tuple(config.data.image_size)
    grid, blocks, hidden = _check_geometry(config.method, size, stride, unit)
    _check_batch(schedule, devices, config.run.mesh_fsdp)
    steps_per_epoch = records / schedule.batch_size
    total_steps = schedule.steps or int(schedule.epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"{schedule.epochs:g} epochs of {records:,} records are less than one batch of "
            f"{schedule.batch_size:,}: lower --config.schedule.batch_size or set --config.schedule.steps"
        )
    lr_scale = schedule.batch_size / LR_BATCH
    return Plan(
        records=records,
        batch_size=schedule.batch_size,
        accumulation=schedule.accumulation,
        devices=devices,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        warmup_epochs=min(schedule.warmup_epochs, total_steps / steps_per_epoch),
        peak_lr=config.optimizer.base_lr * lr_scale,
        min_lr=config.optimizer.min_base_lr * lr_scale,
        grid=grid,
        blocks=blocks,
        hidden=hidden,
    )


def _check_choices(config):
    for key, allowed in CHOICES.items():
        section, name = key.split(".")
        if config[section][name] not in allowed:
            raise UserError(
                f"config.{key} is '{config[section][name]}', expected one of {', '.join(allowed)}: "
                f"type --config.{key}={allowed[0]}"
            )
    if not 0 < config.data.crop_scale[0] <= config.data.crop_scale[1] <= 1:
        raise UserError(
            f"config.data.crop_scale is {tuple(config.data.crop_scale)}, expected two shares of the area "
            "in ascending order: type --config.data.crop_scale='(0.2, 1.0)'"
        )
    for key in ("mean", "std"):
        if len(config.data[key]) not in (0, config.data.channels):
            raise UserError(
                f"config.data.{key} has {len(config.data[key])} values for {config.data.channels} "
                f"channels: give one per channel, or () for the usual ones"
            )


def _check_geometry(method, size, stride, unit):
    block = method.block_size
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"config.data.image_size is {size}, expected (height, width) such as (128, 128)")
    if block < 1 or (block % stride and stride % block) or min(block, stride) % unit:
        raise UserError(
            f"config.method.block_size is {block} pixels, expected a multiple or a divisor of the "
            f"backbone's {stride} that {unit} divides: type --config.method.block_size={stride}"
        )
    step = max(block, stride)
    if size[0] % step or size[1] % step:
        fitting = tuple(max(step, round(side / step) * step) for side in size)
        raise UserError(
            f"{size[0]}x{size[1]} pixels cannot be cut into blocks of {block} and tokens of {stride}: "
            f"type --config.data.image_size='{fitting}' or another --config.method.block_size"
        )
    blocks = (size[0] // block, size[1] // block)
    cells = blocks[0] * blocks[1]
    hidden = cells - int(cells * (1 - method.mask_ratio))
    if not 0 < method.mask_ratio <= 1 or not hidden:
        raise UserError(
            f"config.method.mask_ratio is {method.mask_ratio}, which hides {hidden} of {cells} blocks: "
            "type a share between 0 and 1 such as --config.method.mask_ratio=0.75"
        )
    return (size[0] // stride, size[1] // stride), blocks, hidden


def _check_batch(schedule, devices, fsdp):
    if fsdp < 1 or devices % fsdp:
        raise UserError(
            f"config.run.mesh_fsdp is {fsdp}, which does not divide the {devices} devices that are here: "
            "type --config.run.mesh_fsdp=1"
        )
    parts = devices * schedule.accumulation
    if schedule.batch_size < 1 or schedule.accumulation < 1 or schedule.batch_size % parts:
        fitting = max(1, round(schedule.batch_size / parts)) * parts if parts > 0 else devices
        raise UserError(
            f"a batch of {schedule.batch_size} cannot be split over {devices} devices x "
            f"{schedule.accumulation} accumulation: type --config.schedule.batch_size={fitting}"
        )


def flatten(config):
    """{"section.key": value} of a ConfigDict or nested dict, with plain JSON values."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat.update({f"{key}.{inner}": x for inner, x in flatten(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(before, now):
    """[(key, before, now)] of what differs between two configs and changes the run; not `run.*`."""
    before, now = flatten(before), flatten(now)
    keys = [key for key in sorted({*before, *now}) if not key.startswith("run.")]
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]
