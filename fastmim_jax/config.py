"""The configs of pre-training and fine-tuning: every key with its default and its unit.

`None` (a placeholder) means that a key is unset. `fastmim_jax.validate` has what each key accepts.
"""

from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from fastmim_jax.data.limits import MAX_PIXELS
from fastmim_jax.errors import UserError, did_you_mean

_COMPUTE = {
    "dtype": ("bfloat16", "float32"),
    "remat": ("none", "full", "dots"),
    "layers": ("unrolled", "scanned"),
    "residual_dtype": ("", "float32"),
    "kernel": ("auto", "xla", "cudnn", "pallas"),
}


class LoggerFacts(NamedTuple):
    """A logger of `config.run.loggers`: its name for users; its package, in the extra of its key."""

    shown: str
    package: str = ""


LOGGERS = {
    "tensorboard": LoggerFacts("TensorBoard"),
    "wandb": LoggerFacts("Weights & Biases", "wandb"),
    "mlflow": LoggerFacts("MLflow", "mlflow"),
}
CHOICES = {
    **{f"method.{key}": allowed for key, allowed in _COMPUTE.items()},
    **{f"model.{key}": allowed for key, allowed in _COMPUTE.items()},
    "data.cache": ("", "ram"),
    "data.crop_on": ("host", "device"),
    "data.views": ("crops", "masks"),
    "optimizer.gradient_dtype": ("float32", "bfloat16"),
    "schedule.shape": ("cosine", "poly", "step"),
}
PATH_KEYS = ("init", "data.path", "data.eval_path", "data.legend", "monitor.path", "monitor.masks")


def pretrain_config() -> ConfigDict:
    """Return the config of pre-training, by default the FastMIM ViT-B/16 recipe (published README)."""
    config = ConfigDict()
    config.seed = 0  # of parameters, masks, crops and the order of the images
    # Warm start: a converted checkpoint, the work directory of a run, or one checkpoint in it.
    config.init = ""  # "": all parameters are initialised randomly
    config.data = data_section(image_size=(128, 128), crop_scale=(0.2, 1.0))
    # Views of one decoded image that follow each other in a batch, for when reading is the bottleneck.
    # They count as images: an epoch has as many views as the data has images, of 1 / k of the images.
    config.data.views_per_image = 1  # k; it divides every batch size
    # "crops": k random crops; "masks": k masks of one crop with disjoint visible blocks (DMJD), which needs
    # k * (1 - method.mask_ratio) <= 1
    config.data.views = "crops"
    config.data.eval_path = ""  # data set of the held-out loss; "": data.path if eval_split is set
    config.data.eval_split = ""  # split of the held-out loss; "": "train" if eval_path is set
    config.data.eval_records = 512  # images of the held-out loss, at most

    config.method = ConfigDict()
    config.method.name = "fastmim"  # "fastmim", "mae", "crossmae", "localmim", "mixmim", "simmim"
    config.method.backbone = backbone_section(name="vit_b16")
    config.method.block_size = 16  # side of a masked block in pixels
    config.method.mask_ratio = 0.75  # share of the blocks that are masked, above 0 and below 1
    # How masked blocks lie (ColorMAE). "white": at random; "green": in clusters of a few blocks; "blue":
    # spread evenly; "red": in large patches; "purple": both of the last two.
    config.method.mask_noise = "white"
    config.method.mask_grid = 1  # side in blocks of the squares that are masked as a whole (Pixio: 4)
    config.method.groups = 1  # MixMIM: groups of a batch; images mix inside a group and share its mask
    config.method.target = "hog"  # "hog" or "pixel"
    config.method.normalize_target = True  # unit-norm HOG histograms; mean 0 and variance 1 per pixel patch
    # Sides in pixels of squares whose HOG (a histogram per channel) or pixels are predicted, all with the
    # same weight, such as (4, 8, 16, 32); (): HOG in cells of 8 pixels, or the pixels of a token.
    config.method.target_scales = ()
    # LocalMIM: blocks of a ViT, or stages of another backbone, that have a decoder, counted from 1, the
    # last one among them, such as (2, 4, 10, 12): each predicts the entry of target_scales at its place.
    config.method.local_layers = ()
    config.method.decoder = ConfigDict()
    config.method.decoder.width = 256  # channels of a token
    config.method.decoder.depth = 1  # transformer blocks; 0: only a norm and a linear layer
    config.method.decoder.mlp_ratio = 4.0  # hidden channels of an MLP per channel of a token
    config.method.decoder.heads = placeholder(int)  # attention heads; unset: one per 32 channels
    config.method.decoder.epsilon = (
        1e-6  # of the layer norms; 1e-5 for hierarchical backbones, as published
    )
    # Blocks of the encoder whose outputs are fused before the decoder (MFF), counted from 1, the last one
    # among them, such as (1, 3, 5, 7, 9, 12); (): the last alone. FastMIM, MAE and SimMIM over a ViT.
    config.method.fuse_layers = ()
    # CrossMAE: encoder outputs that its decoder attends to. "all": each block a learned sum of all; "last"
    config.method.feature_maps = "all"
    # PR-MIM (partial reconstruction): some masked tokens, the thrown ones, skip the decoder.
    config.method.partial = ConfigDict()
    config.method.partial.throw_ratio = 0.0  # share of an image's tokens; 0: all tokens are decoded
    # Sampler of the decoded masked tokens. "furthest": furthest-point sampling; "random": uniform;
    # "lattice": tokens on every second row and column first; "furthest_from_visible": furthest-point
    # sampling that starts from the visible tokens.
    config.method.partial.sampler = "furthest"
    # Features of the thrown tokens. "progressive": learned neighbour sums, stage by stage; "nearest": copy
    # of the nearest token; "inverse_distance": weighted mean of the 4 nearest; "none": not in the loss.
    config.method.partial.fill = "progressive"
    config.method.partial.aggregate = "decoded_and_visible"  # tokens that fill them; or "decoded"
    config.method.partial.stages = 2  # of the progressive fill
    config.method.partial.thrown_weight = 1.0  # loss weight of a thrown token; that of a decoded one is 1
    config.method.update(compute_section())

    config.optimizer = optimizer_section(base_lr=1.5e-4, min_base_lr=0.0, betas=(0.9, 0.95))
    config.optimizer.no_decay = ()  # parameters without weight decay beside biases and norms
    config.schedule = schedule_section(batch_size=4096, epochs=800.0, warmup_epochs=20.0)

    # FastMIM-P (progressive image sizes): one entry per stage in every tuple; (): the key of the same
    # name in data, schedule or method holds in all stages.
    config.stages = ConfigDict()
    config.stages.image_sizes = ()  # pixels: side of a square, or (height, width)
    config.stages.start_epochs = ()  # ascending from 0; (): stages of equally many epochs
    config.stages.batch_sizes = ()  # images per update; each stage's learning rate follows the linear rule
    config.stages.accumulations = ()  # micro-batches per update, or "auto"
    config.stages.block_sizes = ()  # pixels
    config.stages.windows = ()  # side of Swin's windows in cells; 0: chosen from the image size

    # Probes of the frozen features during pre-training; they do not change the training.
    config.monitor = ConfigDict()
    config.monitor.path = ""  # a labelled data set for the ridge probe; "": none
    config.monitor.masks = ""  # images with masks for the linear segmentation probe; "": none
    config.monitor.epochs = 10.0  # between probes
    config.monitor.images = 5000  # training images, and test images, at most

    config.run = run_section()
    config.run.eval_every = 0  # steps between held-out losses; 0: never
    config.run.picture_every = 1000  # steps between pictures of reconstructions; 0: never
    return config


def finetune_config() -> ConfigDict:
    """Return the config of fine-tuning a classifier, by default MAE's ViT-B recipe (its FINETUNE.md)."""
    config = ConfigDict()
    config.seed = 0  # of new parameters, augmentation, drop path and the order of the images
    # Warm start: a converted checkpoint, the work directory of a run, or one checkpoint in it.
    config.init = ""  # "": all parameters are initialised randomly
    config.data = data_section(image_size=(224, 224), crop_scale=(0.08, 1.0))
    config.data.eval_path = ""  # data set to evaluate on; "": data.path
    config.data.eval_split = ""  # "": its val (valid, validation) or test split
    # Share of every class that is held out of training, to evaluate on, where the data have no such split
    # and eval_path and eval_split are not set; 0: none.
    config.data.eval_share = 0.1
    config.data.eval_resize = placeholder(int)  # short side before the centre crop; unset: 256 for 224

    config.model = ConfigDict()
    config.model.backbone = backbone_section(name="")  # "": name and unset sizes are those of config.init
    # (rows, columns) of the sine-cosine table that is resampled; unset: the grid of config.init
    config.model.backbone.position_grid = placeholder(tuple)
    config.model.backbone.drop_path = 0.1
    # "pool_norm", "norm_pool", "pool", "cls" or "wide_pool"; unset: as published with the backbone
    config.model.pooling = placeholder(str)
    config.model.pooling_width = placeholder(int)  # channels of "wide_pool"; unset: 1280
    config.model.classes = placeholder(int)  # unset: as many as the data has
    config.model.update(compute_section())

    config.augment = ConfigDict()
    config.augment.magnitude = 9.0  # mean magnitude of RandAugment, 0 to 10; 0: no RandAugment
    config.augment.magnitude_std = 0.5  # standard deviation of the magnitude
    config.augment.random_erasing = 0.25  # probability that a rectangle of an image is erased
    config.augment.mixup = 0.8  # alpha of mixup's Beta distribution; 0: no mixup
    config.augment.cutmix = 1.0  # alpha of CutMix's Beta distribution; 0: no CutMix
    config.augment.mix_probability = 1.0  # probability that a group is mixed
    config.augment.mix_switch = 0.5  # probability of CutMix instead of mixup, if both are on
    config.augment.mix_groups = 1  # groups of a batch; each draws its own mixing and mixes inside itself
    config.augment.label_smoothing = 0.1  # share of a target that all classes get alike
    config.augment.repeated_augmentation = 1  # augmented copies of an image in a row; 1: none repeated

    config.optimizer = optimizer_section(base_lr=5e-4, min_base_lr=2.5e-7, betas=(0.9, 0.999))
    config.optimizer.layer_decay = 0.65  # learning rate of a block divided by that of the next block
    config.optimizer.official = False  # parameter groups as in the published code, oddities included
    config.optimizer.ema_decay = 0.0  # decay of the parameters' moving average, which is evaluated; 0: none
    config.schedule = schedule_section(batch_size=1024, epochs=100.0, warmup_epochs=5.0)
    config.run = run_section()
    config.run.eval_epochs = 1.0  # epochs between evaluations; 0: only after the last step
    # Early stopping: epochs without a better top-1 accuracy after which the run ends; 0: never.
    config.run.patience_epochs = 0.0
    # Images of the ridge probe of the frozen features, whose accuracy fine-tuning has to beat; 0: no probe.
    config.run.baseline_images = 5000
    return config


def data_section(image_size: tuple[int, int], crop_scale: tuple[float, float]) -> ConfigDict:
    """Return the section of the images and of how they are read."""
    data = ConfigDict()
    # A folder, .zip, .txt list, "shard-{000..012}.tar", .parquet, directory of Hugging Face, TFDS or
    # `fastmim prepare`, "tfds:NAME", "sample" (bundled photos), or several as "FIRST::SECOND".
    data.path = "sample"
    data.split = "train"  # of the data set that is trained on
    data.image_size = image_size  # (height, width) in pixels; (), in fine-tuning: that of config.init
    data.channels = 3  # of the images: 3 makes RGB and 1 luma; others must be the files' own
    data.mean = ()  # per channel, of pixel values in [0, 1]; (): ImageNet's
    data.std = ()  # per channel, of pixel values in [0, 1]; (): ImageNet's
    data.crop_scale = crop_scale  # (least, largest) share of the image's area in a random crop
    data.crop_ratio = (3 / 4, 4 / 3)  # (least, largest) width / height of a random crop
    data.cache = ""  # "ram": all records, as stored, in memory that reader processes share; "": none
    # "device": whole images go to the devices, which crop them in the training step: the same boxes, and
    # Pillow's pixels but for rounding. It needs prepared data and no RandAugment. It was not measured on an
    # accelerator. It may pay where resizing is the bottleneck, with decoded records (`raw`, `yuv420`),
    # cache="ram" and threads; but more bytes go to the devices: images are padded to the largest one.
    data.crop_on = "host"
    # (lowest, highest) value, black and white, of images of more than 8 bits, such as (0, 4095). (): it is
    # measured once over the data set.
    data.value_range = ()
    data.nodata = placeholder(float)  # value of no measurement, such as -9999; read as the lowest, like NaN
    # Of pixels for the network: "uint8", "uint16" or "float32". "": uint8 for images of 8 bits, else the
    # smallest that loses no level.
    data.pixel_dtype = ""
    # Of an image; larger ones are refused. Less for formats that take more memory, such as WebP: 2/5 of it.
    data.max_pixels = MAX_PIXELS
    data.max_bad_share = 0.5  # stop when a larger share of the records cannot be decoded
    return data


def backbone_section(name: str) -> ConfigDict:
    """Return the section of a backbone; unset keys are as in the table of models (`models.zoo`)."""
    backbone = ConfigDict()
    backbone.name = name  # such as "vit_b16" or "swin_b"
    backbone.patch_size = placeholder(int)  # pixels: ViT
    backbone.width = placeholder(int)  # channels: ViT; of the first stage: Swin, MixMIM
    backbone.depth = placeholder(int)  # blocks: ViT
    backbone.window = placeholder(int)  # side of a window in cells: Swin
    backbone.norm_groups = placeholder(
        int
    )  # groups of a batch with batch-norm statistics of their own: CMT
    backbone.depths = placeholder(tuple)  # blocks of each stage
    backbone.widths = placeholder(tuple)  # channels of each stage: PVT v2, CMT, ConvNeXt
    backbone.windows = placeholder(tuple)  # side of each stage's windows in cells: MixMIM
    backbone.mlp_ratios = placeholder(tuple)  # of each stage: PVT v2
    backbone.heads = placeholder(object)  # attention heads: ViT; a tuple, of each stage: the others
    backbone.mlp_ratio = placeholder(float)  # hidden channels of an MLP per channel of a token
    backbone.positions = placeholder(str)  # "none", "fixed" (sine-cosine) or "learned": ViT, Swin, MixMIM
    backbone.relative_positions = placeholder(str)  # "none", "shared" (one table) or "own" (per block): ViT
    backbone.class_token = placeholder(bool)  # whether a cls token comes before the patches: ViT
    backbone.class_tokens = placeholder(int)  # number of cls tokens: ViT (Pixio: 8)
    backbone.layer_scale = placeholder(float)  # initial value of the layer scale: ViT, ConvNeXt
    backbone.drop_path = placeholder(
        float
    )  # stochastic depth rate of the last block; grows linearly up to it
    return backbone


def compute_section() -> ConfigDict:
    """Return the keys of a model on how it computes."""
    compute = ConfigDict()
    compute.dtype = "bfloat16"  # of activations; parameters, softmax, norm statistics, HOG, loss: float32
    compute.residual_dtype = ""  # of the residual stream; "": dtype; "float32" is exacter and slower
    # Of attention: "xla"; on NVIDIA GPUs also "cudnn", or "pallas" with a learned bias; "auto": the faster.
    compute.kernel = "auto"
    compute.remat = "none"  # rematerialisation: "full" or "dots" save memory and cost time
    compute.layers = "unrolled"  # "scanned" compiles faster
    return compute


def optimizer_section(base_lr: float, min_base_lr: float, betas: tuple[float, float]) -> ConfigDict:
    """Return the section of AdamW and its learning rates."""
    optimizer = ConfigDict()
    optimizer.base_lr = base_lr  # peak learning rate for a batch of 256 images (linear rule), as all *_lr
    optimizer.min_base_lr = min_base_lr  # at the end of the cosine
    optimizer.warmup_base_lr = 0.0  # of the first step
    optimizer.betas = betas  # of AdamW
    optimizer.epsilon = 1e-8  # of AdamW
    optimizer.weight_decay = 0.05  # decoupled, of AdamW; biases, norms and `no_decay` have none
    optimizer.clip_norm = 0.0  # largest global norm of the gradients; 0: no clipping
    # In which kernels' gradients are summed over devices. "float32" as in PyTorch's data parallelism;
    # "bfloat16" sends half the bytes and rounds every partial sum to 8 bits.
    optimizer.gradient_dtype = "float32"
    return optimizer


def schedule_section(batch_size: int, epochs: float, warmup_epochs: float) -> ConfigDict:
    """Return the section of the batch, of the length of a run, and of its learning rate."""
    schedule = ConfigDict()
    schedule.batch_size = batch_size  # images per update, over all devices and micro-batches
    # Gradient accumulation: micro-batches per update. "auto": the fewest that fit in memory.
    schedule.accumulation = FieldReference("auto", field_type=object)
    schedule.epochs = epochs  # passes over the training data
    schedule.steps = 0  # updates; above 0 it replaces epochs
    schedule.warmup_epochs = warmup_epochs  # of a linear rise to the peak learning rate
    schedule.shape = "cosine"  # of the learning rate after the warm-up: "cosine", "poly" or "step"
    schedule.decay_epochs = 100.0  # "step": epochs between multiplications of the learning rate by 0.1
    return schedule


def run_section() -> ConfigDict:
    """Return the section of keys that may differ when a run is resumed: none changes the loss."""
    run = ConfigDict()
    run.log_every = 10  # steps between metrics; 0: never
    # Beside metrics.jsonl: any of "tensorboard", "wandb" (Weights & Biases) and "mlflow", typed as
    # tensorboard,wandb. Their own variables apply, such as WANDB_MODE=offline and MLFLOW_TRACKING_URI.
    run.loggers = ("tensorboard",)
    # Project of Weights & Biases, experiment of MLflow. "": by WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME, or
    # "fastmim_jax".
    run.project = ""
    run.checkpoint_every = 1000  # steps between checkpoints; 0: only the last
    run.keep = 3  # newest checkpoints that are kept, at least 1
    run.keep_every = 0  # steps: checkpoints at multiples of it are never deleted; 0: none
    run.verify_checkpoints = True  # compare files with their SHA-256 sums before reading: 1 s a GB
    run.max_failed_saves = 3  # checkpoints in a row that cannot be written before the run stops, at least 1
    # Seconds after which a small write to the work directory that has not returned ends the run; 0: never
    run.disk_timeout_seconds = 45.0
    # Seconds between a stop signal and the end that the scheduler leaves: an evaluation or a picture that
    # lasts longer than half of it is given up for the checkpoint, and made when the run resumes.
    run.grace_seconds = 25.0
    run.peer_timeout_seconds = (
        60.0  # of silence after which another process counts as dead and the run ends
    )
    # Of an address as work directory: seconds without a good upload before the run stops; 0: it never does.
    run.upload_timeout_seconds = 0.0
    run.max_skipped = 20  # non-finite steps in a row that stop the run, at least 1
    run.workers = -1  # worker processes that read images; -1: chosen from the number of cores
    run.threads = 4  # per worker process
    run.max_worker_restarts = 3  # dead workers that are replaced, in training and in each evaluation
    run.mesh_fsdp = 1  # devices, of one slice or node, that share one copy of the parameters (FSDP)
    run.shard_optimizer_state = False  # split AdamW's moments over all devices (ZeRO-1), not only FSDP's
    return run


def logger_keys(loggers: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of LOGGERS in `config.run.loggers`; items may be joined by commas."""
    words = (word.strip() for text in loggers for word in text.split(","))
    return tuple(dict.fromkeys(filter(None, words)))


def check_variant(file: str, variant: str, variants: Iterable[str]) -> None:
    """Raise UserError if a config file has no such variant."""
    if variant not in variants:
        hint = did_you_mean(variant, variants)
        raise UserError(f"{file} has no variant '{variant}'{hint}; choose from: {', '.join(variants)}")


_RENAMED = {"base": "pretrain_config", "finetuning": "finetune_config"}


def __getattr__(name: str) -> NoReturn:
    if name in _RENAMED:
        new = _RENAMED[name]
        raise UserError(
            f"fastmim_jax.config.{name} is now {new}: type `from fastmim_jax.config import {new}`"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
