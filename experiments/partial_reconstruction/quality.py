"""Quality of the features under partial reconstruction: MAE, PR-MIM and plain partial reconstruction.

    python experiments/partial_reconstruction/quality.py --data=CIFAR10 --out=DIR

CIFAR10 is a folder train/CLASS/*.png, test/CLASS/*.png. A small MAE (patches of 4 pixels) is trained
without labels, every variant with the same seeds, images, masks and number of updates; then a ridge probe
is fitted to its frozen features (`fastmim_jax.evaluate.probe`). DIR/results.jsonl has one line per run;
finished runs are not repeated.
"""

import argparse
import json
import time
from pathlib import Path

from fastmim_jax.config import pretrain_config
from fastmim_jax.evaluate.probe import probe
from fastmim_jax.io import append_json_line, read_json_lines
from fastmim_jax.train.pretrain import pretrain

VARIANTS = {
    "mae": {},
    "pr_mim": {"throw_ratio": 0.5},
    "plain": {"throw_ratio": 0.5, "sampler": "random", "fill": "none"},
    "furthest_without_fill": {"throw_ratio": 0.5, "fill": "none"},
    "one_stage": {"throw_ratio": 0.5, "stages": 1},
    "inverse_distance": {"throw_ratio": 0.5, "fill": "inverse_distance"},
    "from_decoded": {"throw_ratio": 0.5, "aggregate": "decoded"},
    "thrown_half": {"throw_ratio": 0.5, "thrown_weight": 0.5},
}
FITTED = 20_000  # training images for the ridge probe, which is tested on all 10,000 test images
LAYER = "block 4 mean"  # the last


def config_of(name, seed, data, steps):
    """A ViT 128 wide, 4 deep, 64 patches; a decoder 96 wide, 2 deep."""
    config = pretrain_config()
    config.seed = seed
    config.data.update(path=str(data), image_size=(32, 32), eval_split="test", eval_records=2048)
    config.method.update(name="mae", target="pixel", block_size=4, dtype="float32")
    config.method.backbone.update(name="vit_ti4", width=128, depth=4, heads=4)
    config.method.decoder.update(width=96, depth=2, heads=3)
    config.method.partial.update(VARIANTS[name])
    config.optimizer.base_lr = 1.5e-3
    config.schedule.update(batch_size=256, steps=steps, warmup_epochs=0.3)
    config.run.update(eval_every=steps, picture_every=0, checkpoint_every=0, log_every=20, workers=1)
    return config


def run_one(name, seed, args):
    """Return a line of the results."""
    workdir = args.out / f"{name}_{seed}"
    start = time.time()
    pretrain(config_of(name, seed, args.data, args.steps), workdir, log=lambda text: None)
    seconds = time.time() - start
    losses = [
        line["eval_loss"]
        for line in read_json_lines(workdir / "metrics.jsonl").records
        if "eval_loss" in line
    ]
    lines = probe(workdir, args.data, kinds=("ridge",), count=FITTED, log=lambda text: None)
    last = next(line for line in lines if line.layer == LAYER)
    return {
        "name": name,
        "seed": seed,
        "steps": args.steps,
        "accuracy": last.accuracies[0],
        "setting": last.setting,
        "layers": {line.layer: line.accuracies[0] for line in lines},
        "held_out_loss": losses[-1],
        "seconds": round(seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", default="mae,pr_mim,plain")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    done = read_json_lines(results).records
    for seed in map(int, args.seeds.split(",")):
        for name in args.only.split(","):
            if any(
                (line["name"], line["seed"], line["steps"]) == (name, seed, args.steps) for line in done
            ):
                continue
            line = run_one(name, seed, args)
            print(json.dumps(line), flush=True)
            append_json_line(results, line)


if __name__ == "__main__":
    main()
