"""Labelled folders of tiny images whose classes are told by colour, and runs on them."""

import numpy as np
from PIL import Image

from fastmim_jax.config import finetune_config
from fastmim_jax.io import write_json
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.finetune import make_finetune_stage
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.supervised import resolve_start
from fastmim_jax.train.workdir import prepare_workdir
from helpers import small

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def write_images(root, each, colours=COLOURS, seed=0, noise=25):
    """root/CLASS/00.png and so on, `each` of every class, 32 x 32 -> root."""
    random = np.random.default_rng(seed)
    for name, colour in colours.items():
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = random.normal(colour, noise, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:02}.png")
    return root


def write_splits(root, train, test):
    """root/train and root/test of so many images a class, and one more in each that is none -> root."""
    for split, each, seed in (("train", train, 0), ("test", test, 1)):
        write_images(root / split, each, seed=seed)
        (root / split / "red" / "broken.png").write_bytes(b"not an image")
    return root


def pretrained(data, workdir, **schedule):
    """Pre-trains a tiny ViT on a folder -> its work directory."""
    pretrain(small.config(data, **schedule), workdir, log=lambda line: None)
    return workdir


def tuning_config(data, init=""):
    """Fine-tuning of the same ViT that trains in seconds, without augmentation but crops and flips."""
    config = finetune_config()
    config.init = str(init)
    if not init:
        config.model.backbone.update(name="vit_ti8", width=32, depth=2, heads=2)
    config.data.update(path=str(data), image_size=(32, 32), crop_scale=(0.5, 1.0))
    config.model.dtype = "float32"
    config.optimizer.base_lr = 3e-2
    config.augment.update(magnitude=0.0, mixup=0.0, cutmix=0.0, random_erasing=0.0)
    config.schedule.update(batch_size=16, steps=12, warmup_epochs=0.1)
    config.run.update(log_every=1, checkpoint_every=0, workers=0, threads=2)
    return config


def untrained(config, workdir, records, classes):
    """A work directory as of fine-tuning, with the parameters that it starts from -> the same."""
    config, loaded = resolve_start(config, workdir)
    stage = make_finetune_stage(config, records, classes, loaded=loaded)
    prepare_workdir(workdir, config)
    write_json(workdir / "classes.json", classes)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(0, stage.create(), {"records": 0})
    return workdir
