"""The base config: every key and its default. `fastmim_jax.plan` validates it."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

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
    for sizes in ("depths", "widths", "windows", "mlp_ratios"):
        config.method.backbone[sizes] = placeholder(tuple)
    config.method.backbone.heads = placeholder(object)  # a number, or a tuple where there are stages
    config.method.backbone.mlp_ratio = placeholder(float)
    config.method.backbone.positions = placeholder(str)  # "none", "fixed" or "learned": ViT, Swin, MixMIM
    config.method.backbone.relative_positions = placeholder(str)  # of ViT: "none", "shared" or "own"
    config.method.backbone.layer_scale = placeholder(float)  # of ViT and ConvNeXt
    config.method.block_size = 16  # pixels
    config.method.mask_ratio = 0.75
    config.method.groups = 1  # of MixMIM: parts of a batch with one mask each, which mix among themselves
    config.method.target = "hog"
    config.method.normalize_target = True
    config.method.decoder = ConfigDict({"width": 256, "depth": 1, "mlp_ratio": 4.0})
    config.method.decoder.heads = placeholder(int)  # unset: each 32 wide
    config.method.decoder.epsilon = 1e-6  # of its norms, as the family of the backbone was published
    # PR-MIM: hidden tokens that do not pass the decoder, and what becomes of them.
    config.method.partial = ConfigDict()
    config.method.partial.throw_ratio = 0.0  # share of an image's tokens; 0: everything is decoded
    # Which hidden tokens are decoded. "furthest": those furthest apart; "random": any; "lattice": those on
    # every second row and column; "furthest_from_visible": those furthest apart and from visible ones.
    config.method.partial.sampler = "furthest"
    # What the others become. "progressive": learned sums over their neighbours, in stages; "nearest":
    # copies; "inverse_distance": means of the 4 nearest; "none": nothing, and no part of the loss.
    config.method.partial.fill = "progressive"
    config.method.partial.aggregate = "decoded_and_visible"  # what they are made from; or "decoded" alone
    config.method.partial.stages = 2  # of the progressive fill
    config.method.partial.thrown_weight = 1.0  # in the loss; a decoded token counts 1
    config.method.dtype = "bfloat16"  # of activations; parameters, softmax, norms, HOG, loss: float32
    config.method.kernel = "xla"  # of attention; "cudnn" on NVIDIA GPUs
    config.method.remat = "none"  # "full" and "dots" trade time for memory
    config.method.layers = "unrolled"  # "scanned" compiles faster

    config.optimizer = ConfigDict()
    config.optimizer.base_lr = 1.5e-4  # for 256 images
    config.optimizer.min_base_lr = 0.0
    config.optimizer.warmup_base_lr = 0.0  # of the very first step
    config.optimizer.betas = (0.9, 0.95)
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.spared = ()  # last parts of names of more parameters that do not decay
    config.optimizer.clip_norm = 0.0  # 0: no clipping, as published

    config.schedule = ConfigDict()
    config.schedule.batch_size = 4096  # images per update, over all devices and accumulation
    config.schedule.accumulation = 1  # parts that a batch is computed in
    config.schedule.epochs = 800.0
    config.schedule.steps = 0  # updates; above 0 it replaces epochs
    config.schedule.warmup_epochs = 20.0
    config.schedule.shape = "cosine"
    config.schedule.decay_epochs = 100.0  # of the "step" shape: learning rate x 0.1 every so many

    # FastMIM-P: a run in stages, one entry each in every tuple; () leaves that key as it is elsewhere.
    config.stages = ConfigDict()
    config.stages.image_sizes = ()  # of a square's side, or (height, width)
    config.stages.start_epochs = ()  # the first is 0; () makes all stages equally many epochs
    config.stages.batch_sizes = ()  # the learning rate follows the linear rule in each
    config.stages.accumulations = ()
    config.stages.block_sizes = ()
    config.stages.windows = ()  # of a Swin; 0 chooses by the image's size

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


def from_saved(saved):
    """A config from the nested dict that one was saved as; keys that it lacks get their defaults."""
    return ConfigDict(_filled(saved, base().to_dict()))


def _filled(given, defaults):
    nested = {key: x for key, x in given.items() if isinstance(x, dict) and key in defaults}
    return {**defaults, **given, **{key: _filled(x, defaults[key]) for key, x in nested.items()}}


def flatten(config):
    """{"section.key": value} of a ConfigDict or nested dict, with plain JSON values."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat.update({f"{key}.{inner}": x for inner, x in flatten(value).items()})
        else:
            flat[key] = _plain(value)
    return flat


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def differences(before, now):
    """[(key, before, now)] of what differs between two configs and changes the run; not `run.*`.

    A key that an older config does not have counts as its default.
    """
    before, now = {**flatten(base()), **flatten(before)}, flatten(now)
    keys = [key for key in sorted({*before, *now}) if not key.startswith("run.")]
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]
