"""The configs of pre-training and fine-tuning, every key with its default. `fastmim_jax.plan` validates."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

_COMPUTING = {
    "dtype": ("bfloat16", "float32"),
    "remat": ("none", "full", "dots"),
    "layers": ("unrolled", "scanned"),
    "kernel": ("xla", "cudnn"),
}
CHOICES = {
    "method.target": ("hog", "pixel"),
    **{f"method.{key}": allowed for key, allowed in _COMPUTING.items()},
    **{f"model.{key}": allowed for key, allowed in _COMPUTING.items()},
    "schedule.shape": ("cosine", "step"),
}


FREE = ("run.", "monitor.")  # sections that may differ when a run goes on


def pretrain_config():
    """Pre-training, by default the FastMIM ViT-B/16 recipe (README of the published code)."""
    config = ConfigDict()
    config.seed = 0
    # What to start from: a converted checkpoint, the work directory of a run, or one checkpoint of it.
    config.init = ""  # "": nothing, all parameters start fresh
    config.data = _data(image_size=(128, 128), crop_scale=(0.2, 1.0))
    config.data.eval_path = ""  # a source for the held-out loss; "" takes data.path if eval_split is set
    config.data.eval_split = ""
    config.data.eval_records = 512

    config.method = ConfigDict()
    config.method.name = "fastmim"
    config.method.backbone = _backbone(name="vit_b16")
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
    config.method.update(_computing())

    config.optimizer = _optimizer(base_lr=1.5e-4, min_base_lr=0.0, betas=(0.9, 0.95))
    config.optimizer.no_decay = ()  # last parts of names of more parameters that do not decay
    config.schedule = _schedule(batch_size=4096, epochs=800.0, warmup_epochs=20.0)

    # FastMIM-P: a run in stages, one entry each in every tuple; () leaves that key as it is elsewhere.
    config.stages = ConfigDict()
    config.stages.image_sizes = ()  # of a square's side, or (height, width)
    config.stages.start_epochs = ()  # the first is 0; () makes all stages equally many epochs
    config.stages.batch_sizes = ()  # the learning rate follows the linear rule in each
    config.stages.accumulations = ()
    config.stages.block_sizes = ()
    config.stages.windows = ()  # of a Swin; 0 chooses by the image's size

    # A ridge probe of the features, again and again: which checkpoint is good? Nothing here changes a loss.
    config.monitor = ConfigDict()
    config.monitor.path = ""  # a labelled data set; "": no monitor
    config.monitor.epochs = 10.0  # between probes
    config.monitor.images = 5000  # at most so many for fitting, and as many for testing

    config.run = _run()
    config.run.eval_every = 0
    config.run.picture_every = 1000
    return config


def finetune_config():
    """Fine-tuning a classifier, by default the ViT-B recipe of MAE (its FINETUNE.md)."""
    config = ConfigDict()
    config.seed = 0
    config.init = ""  # as above
    config.data = _data(image_size=(224, 224), crop_scale=(0.08, 1.0))
    config.data.eval_path = ""  # what to evaluate on; "": data.path
    config.data.eval_split = ""  # "": its val (valid, validation) or test split
    config.data.eval_resize = placeholder(int)  # short side before the centre crop; unset: 256 for 224

    config.model = ConfigDict()
    config.model.backbone = _backbone(name="")  # unset: as `init` has it, sizes too
    config.model.backbone.position_grid = placeholder(tuple)  # of the table positions are resampled from
    config.model.backbone.drop_path = 0.1  # of the last block; that of the others grows up to it
    config.model.pooling = placeholder(str)  # unset: as published; see `fastmim_jax.models.heads`
    config.model.pooling_width = placeholder(int)  # of "wide_pool"; unset: 1280
    config.model.classes = placeholder(int)  # unset: as the data has
    config.model.update(_computing())

    config.augment = ConfigDict()
    config.augment.magnitude = 9.0  # of RandAugment, of 10; 0: none
    config.augment.magnitude_std = 0.5  # of the magnitude
    config.augment.random_erasing = 0.25  # share of the images with an erased rectangle
    config.augment.mixup = 0.8  # of the Beta distribution; 0: none
    config.augment.cutmix = 1.0
    config.augment.mix_probability = 1.0
    config.augment.mix_switch = 0.5  # how often it is cutmix, where there are both
    config.augment.mix_groups = 1  # parts of a batch that mix among themselves, each in its own way
    config.augment.label_smoothing = 0.1  # of labels
    config.augment.repeated_augmentation = (
        1  # times that an image stands in a batch, each with its own augmentation
    )

    config.optimizer = _optimizer(base_lr=5e-4, min_base_lr=2.5e-7, betas=(0.9, 0.999))
    config.optimizer.layer_decay = 0.65  # learning rate of a block, as a share of the next one's
    config.optimizer.official = False  # parameter groups exactly as published, oddities included
    config.optimizer.ema_decay = 0.0  # decay of the moving average that is evaluated; 0: none
    config.schedule = _schedule(batch_size=1024, epochs=100.0, warmup_epochs=5.0)
    config.run = _run()
    config.run.eval_epochs = 1.0  # between evaluations; 0: only after the last step
    return config


def _data(**own):
    data = ConfigDict()
    data.path = "sample"  # "sample", an image folder, a TFDS directory, or "tfds:NAME"
    data.split = "train"
    data.image_size = own["image_size"]  # height, width in pixels
    data.channels = 3
    data.mean = ()  # per channel, of values in [0, 1]; () for ImageNet's
    data.std = ()
    data.crop_scale = own["crop_scale"]  # share of the image's area
    data.crop_ratio = (3 / 4, 4 / 3)  # width / height
    data.max_bad_share = 0.5  # stop when more of the records than this cannot be decoded
    return data


def _backbone(name):
    backbone = ConfigDict({"name": name})
    # Unset: as the table of models says. Tuples have one number per stage.
    for size in ("patch_size", "width", "depth", "window", "norm_groups"):
        backbone[size] = placeholder(int)
    for sizes in ("depths", "widths", "windows", "mlp_ratios"):
        backbone[sizes] = placeholder(tuple)
    backbone.heads = placeholder(object)  # a number, or a tuple where there are stages
    backbone.mlp_ratio = placeholder(float)
    backbone.positions = placeholder(str)  # "none", "fixed" or "learned": ViT, Swin, MixMIM
    backbone.relative_positions = placeholder(str)  # of ViT: "none", "shared" or "own"
    backbone.layer_scale = placeholder(float)  # of ViT and ConvNeXt
    backbone.drop_path = placeholder(float)  # rate at which the last block is left out
    return backbone


def _computing():
    computing = ConfigDict()
    computing.dtype = "bfloat16"  # of activations; parameters, softmax, norms, HOG, loss: float32
    computing.kernel = "xla"  # of attention; "cudnn" on NVIDIA GPUs
    computing.remat = "none"  # "full" and "dots" trade time for memory
    computing.layers = "unrolled"  # "scanned" compiles faster
    return computing


def _optimizer(**own):
    optimizer = ConfigDict()
    optimizer.base_lr = own["base_lr"]  # for 256 images
    optimizer.min_base_lr = own["min_base_lr"]
    optimizer.warmup_base_lr = 0.0  # of the very first step
    optimizer.betas = own["betas"]
    optimizer.epsilon = 1e-8
    optimizer.weight_decay = 0.05
    optimizer.clip_norm = 0.0  # 0: no clipping, as published
    return optimizer


def _schedule(**own):
    schedule = ConfigDict()
    schedule.batch_size = own["batch_size"]  # images per update, over all devices and accumulation
    schedule.accumulation = 1  # parts that a batch is computed in
    schedule.epochs = own["epochs"]
    schedule.steps = 0  # updates; above 0 it replaces epochs
    schedule.warmup_epochs = own["warmup_epochs"]
    schedule.shape = "cosine"
    schedule.decay_epochs = 100.0  # of the "step" shape: learning rate x 0.1 every so many
    return schedule


def _run():
    """What may differ when a run goes on: nothing here changes a loss."""
    run = ConfigDict()
    run.log_every = 10  # steps, as all below; 0: never
    run.checkpoint_every = 1000
    run.keep = 3  # newest checkpoints kept
    run.keep_every = 0  # checkpoints at multiples of this are kept for good
    run.max_skipped = 20  # non-finite steps in a row before the run stops
    run.workers = -1  # worker processes that read images; -1 chooses by the number of cores
    run.threads = 4  # per worker
    run.mesh_fsdp = 1  # devices that share one copy of the parameters; the rest split the batch
    return run


def defaults(saved):
    """The config that a saved one began as: of pre-training or of fine-tuning."""
    return finetune_config() if "model" in saved else pretrain_config()


# Keys by their old names, which saved configs may still have; a value is one key, "section.key".
RENAMED_KEYS = {
    "optimizer.spared": "optimizer.no_decay",
    "optimizer.average": "optimizer.ema_decay",
    "augment.deviation": "augment.magnitude_std",
    "augment.erase": "augment.random_erasing",
    "augment.repeats": "augment.repeated_augmentation",
    "augment.smoothing": "augment.label_smoothing",
}


def with_current_keys(saved):
    """Return a copy of a saved config (nested dict) with every key of RENAMED_KEYS under its new name."""
    renamed = {key: dict(x) if isinstance(x, dict) else x for key, x in saved.items()}
    for old, new in RENAMED_KEYS.items():
        section, key = old.split(".")
        if key in renamed.get(section, {}):
            renamed[section].setdefault(new.split(".")[1], renamed[section][key])
            del renamed[section][key]
    return renamed


def config_from_dict(saved):
    """Return a config from the nested dict that one was saved as; keys that it lacks get their defaults."""
    saved = with_current_keys(saved)
    return ConfigDict(_filled(saved, defaults(saved).to_dict()))


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
    """[(key, before, now)] of what differs between two configs and changes the run; not in FREE.

    A key that an older config does not have counts as its default.
    """
    before = with_current_keys(before)
    before, now = {**flatten(defaults(before)), **flatten(before)}, flatten(now)
    keys = [key for key in sorted({*before, *now}) if not key.startswith(FREE)]
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]
