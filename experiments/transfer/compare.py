"""Value of pre-training: one small backbone, pre-trained in several ways, then probed and fine-tuned.

    python experiments/transfer/compare.py --data=CIFAR10 --out=DIR [--only=mae,none] [--seeds=0,1,2]

CIFAR10 is a folder train/CLASS/*.png, test/CLASS/*.png. Images are enlarged to 64 px, so that a patch of 8
is one of 4 pixels and HOG has its usual cells. Pre-training: 500 updates of 256 images, no labels.
Fine-tuning: 5,000 labelled images (500 of each class, the same for all), 4 epochs. Everything uses
`fastmim_jax.train.pretrain.pretrain`, `evaluate.probe.probe` and `train.finetune.finetune`. A line of
DIR/results.jsonl is one variant and seed; finished ones are not repeated.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.evaluate.best_checkpoint import BestCheckpoint
from fastmim_jax.evaluate.probe import probe
from fastmim_jax.io import append_json_line, read_json_lines
from fastmim_jax.train.finetune import finetune
from fastmim_jax.train.pretrain import pretrain

VIT = {
    "method.backbone.name": "vit_ti8",
    "method.backbone.width": 96,
    "method.backbone.depth": 4,
    "method.backbone.heads": 3,
    "method.block_size": 8,
}
PYRAMID = {
    "method.backbone.name": "mixmim_b",
    "method.backbone.width": 32,
    "method.backbone.depths": (1, 1, 2, 1),
    "method.backbone.heads": (1, 2, 4, 8),
    "method.block_size": 32,
    "method.decoder.epsilon": 1e-5,
}
MAE = {**VIT, "method.name": "mae", "method.target": "pixel"}
MIXMIM = {
    **PYRAMID,
    "method.name": "mixmim",
    "method.target": "pixel",
    "method.mask_ratio": 0.5,
    "method.groups": 16,
}
VARIANTS = {
    "fastmim_hog": VIT,
    "mae": MAE,
    "pr_mim": {**MAE, "method.partial.throw_ratio": 0.5},
    "fastmim_pixel": {**VIT, "method.target": "pixel"},
    "none": VIT,
    "mixmim": MIXMIM,
    "pyramid_fastmim_hog": PYRAMID,
    "pyramid_none": PYRAMID,
}
FROM_SCRATCH = ("none", "pyramid_none")
LABELLED = 500  # images of each class
PROBED = 5000  # images to fit the ridge probe, and as many to test it


def pretraining(name, seed, data, steps):
    """Return the config of a variant's pre-training."""
    config = pretrain_config()
    config.seed = seed
    config.data.update(path=str(data), image_size=(64, 64), eval_split="test", eval_records=2048)
    config.method.dtype = "float32"
    config.method.decoder.update(width=64, depth=1)
    config.optimizer.base_lr = 1.5e-3
    config.schedule.update(batch_size=256, steps=steps, warmup_epochs=0.3)
    config.run.update(eval_every=steps, picture_every=0, checkpoint_every=0, log_every=20, workers=0)
    config.update_from_flattened_dict(VARIANTS[name])
    return config


def tuning(name, seed, labelled, data, init):
    """Return the config of a variant's fine-tuning, without augmentation (too short a run)."""
    config = finetune_config()
    config.seed, config.init = seed, str(init)
    config.data.update(path=str(labelled), image_size=(64, 64), crop_scale=(0.4, 1.0))
    config.data.update(eval_path=str(data), eval_split="test", eval_resize=64)
    config.model.dtype = "float32"
    config.augment.update(magnitude=0.0, random_erasing=0.0, mixup=0.0, cutmix=0.0)
    config.model.backbone.drop_path = 0.0
    config.optimizer.update(base_lr=6e-3, layer_decay=0.75)
    config.schedule.update(batch_size=128, epochs=4.0, warmup_epochs=0.5)
    config.run.update(checkpoint_every=0, eval_epochs=4.0, log_every=10, workers=0)
    if name in FROM_SCRATCH:
        # Without pre-training no layer decay: one learning rate, the best of three.
        config.init = ""
        config.optimizer.update(base_lr=4e-3, layer_decay=1.0)
        section = pretraining(name, seed, data, 1).method.backbone
        config.model.backbone.update({key: x for key, x in section.items() if x is not None})
        config.model.backbone.positions = "learned" if section.name.startswith("vit") else None
    return config


def labelled_part(data, folder, seed=0):
    """Make a folder of links to LABELLED images of each class and return its path."""
    for where in sorted(p for p in (Path(data) / "train").iterdir() if p.is_dir()):
        files = sorted(where.iterdir())
        chosen = np.random.default_rng(seed).permutation(len(files))[:LABELLED]
        (folder / where.name).mkdir(parents=True, exist_ok=True)
        for index in chosen:
            link = folder / where.name / files[index].name
            if not link.exists():
                os.symlink(files[index].resolve(), link)
    return folder


def run_one(name, seed, args):
    """Return a line of the results."""
    before, after = args.out / f"{name}_{seed}", args.out / f"{name}_{seed}_tuned"
    line = {"name": name, "seed": seed}
    if name not in FROM_SCRATCH:
        config = pretraining(name, seed, args.data, args.steps)
        pretrain(config, before, log=lambda text: None)
        speeds = [
            x["images_per_second"] for x in read_json_lines(before / "metrics.jsonl").records if "loss" in x
        ]
        line.update(steps=args.steps, images_per_second=float(np.median(speeds)))
        # By the median speed, as the wall time of an interrupted run is longer.
        images = args.steps * config.schedule.batch_size
        line["pretraining_seconds"] = round(images / line["images_per_second"])
        lines = probe(before, args.data, kinds=("ridge",), count=PROBED, log=lambda text: None)
        best = max(lines, key=lambda x: x.held_out)
        line.update(probe=best.accuracies[0], probe_layer=best.layer)
        line["probes"] = {x.layer: x.accuracies[0] for x in lines}
    start = time.time()
    labelled = labelled_part(args.data, args.out / "labelled")
    finetune(tuning(name, seed, labelled, args.data, before), after, BestCheckpoint, log=lambda text: None)
    evaluations = [x for x in read_json_lines(after / "metrics.jsonl").records if "top1" in x]
    line["tuned"] = evaluations[-1]["top1"]
    line["tuning_seconds"] = round(time.time() - start)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    done = {(line["name"], line["seed"]) for line in read_json_lines(results).records}
    for seed in map(int, args.seeds.split(",")):
        for name in args.only.split(","):
            if (name, seed) not in done:
                line = run_one(name, seed, args)
                print(json.dumps(line), flush=True)
                append_json_line(results, line)


if __name__ == "__main__":
    main()
