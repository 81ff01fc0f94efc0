"""What partial reconstruction does to what is learned: MAE, PR-MIM and plain partial reconstruction.

    python experiments/partial_reconstruction/quality.py --data=CIFAR10 --out=DIR

CIFAR10 is a folder train/CLASS/*.png, test/CLASS/*.png. A small MAE (patches of 4 pixels) is trained
without labels through `fastmim_jax.train.loop.pretrain`, every contestant with the same seeds, images,
masks and number of updates; then a linear classifier is fitted to its frozen features, in closed form.
A line of DIR/results.jsonl is one run; a run that is there already is not repeated.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.config import base
from fastmim_jax.data.sources import open_source
from fastmim_jax.train import setup
from fastmim_jax.train.checkpoint import Checkpoints
from fastmim_jax.train.loop import pretrain
from fastmim_jax.train.metrics import read_metrics

CONTESTANTS = {
    "mae": {},
    "pr_mim": {"throw_ratio": 0.5},
    "plain": {"throw_ratio": 0.5, "sampler": "random", "fill": "none"},
    "furthest_without_fill": {"throw_ratio": 0.5, "fill": "none"},
    "one_stage": {"throw_ratio": 0.5, "stages": 1},
    "inverse_distance": {"throw_ratio": 0.5, "fill": "inverse_distance"},
    "from_decoded": {"throw_ratio": 0.5, "aggregate": "decoded"},
    "thrown_half": {"throw_ratio": 0.5, "thrown_weight": 0.5},
}
FITTED, CHOSEN = 20_000, 4_000  # training images for the classifier, and of them those for its penalty
PENALTIES = 10.0 ** np.arange(-6, 3)  # per image, for features of unit variance
BATCH = 500  # of the classifier's images


def config_of(name, seed, data, steps):
    """A ViT 128 wide, 4 deep, 64 patches; a decoder 96 wide, 2 deep."""
    config = base()
    config.seed = seed
    config.data.update(path=str(data), image_size=(32, 32), eval_split="test", eval_records=2048)
    config.method.update(name="mae", target="pixel", block_size=4, dtype="float32")
    config.method.backbone.update(name="vit_ti4", width=128, depth=4, heads=4)
    config.method.decoder.update(width=96, depth=2, heads=3)
    config.method.partial.update(CONTESTANTS[name])
    config.optimizer.base_lr = 1.5e-3
    config.schedule.update(batch_size=256, steps=steps, warmup_epochs=0.3)
    config.run.update(eval_every=steps, picture_every=0, checkpoint_every=0, log_every=20, workers=1)
    return config


def features(config, workdir, source, count):
    """Mean of the encoder's patch tokens of the first `count` images, whole, and their labels."""
    config.schedule.update(batch_size=BATCH)
    config.data.update(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    run = setup.build(config, count, jax.devices()[:1])
    with Checkpoints(Path(workdir) / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(checkpoints.latest(), run.abstract).params
    encoder, (mean, std) = run.method.encoder.clone(parent=None), setup.data_statistics(config.data)

    @jax.jit
    def encode(params, images):
        images = (images / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
        return encoder.apply({"params": params["encoder"]}, images).tokens.mean((1, 2))

    order = np.random.default_rng(0).permutation(len(source))[:count]
    found, labels = [], np.array([source.label(int(index)) for index in order])
    for start in range(0, count, BATCH):
        images = np.stack([_pixels(source[int(index)]) for index in order[start : start + BATCH]])
        found.append(np.asarray(encode(params, images.astype(np.float32))))
    return np.concatenate(found).astype(np.float64), labels


def _pixels(record):
    import io

    from PIL import Image

    return (
        np.asarray(Image.open(io.BytesIO(record)).convert("RGB")) if isinstance(record, bytes) else record
    )


def linear_probe(train, test):
    """Test accuracy of a ridge classifier whose penalty is the best on the last of the training images."""
    (x, y), (x_test, y_test) = train, test
    mean, deviation = x.mean(0), x.std(0) + 1e-8
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    targets = np.eye(y.max() + 1)[y]

    def weights(rows, penalty):
        covariance = x[rows].T @ x[rows] + penalty * len(x[rows]) * np.eye(x.shape[1])
        return np.linalg.solve(covariance, x[rows].T @ (targets[rows] - targets[rows].mean(0)))

    def accuracy(w, x, y):
        return float((np.argmax(x @ w + targets.mean(0), axis=1) == y).mean())

    fit, choose = slice(0, -CHOSEN), slice(-CHOSEN, None)
    best = max(PENALTIES, key=lambda penalty: accuracy(weights(fit, penalty), x[choose], y[choose]))
    return accuracy(weights(slice(None), best), x_test, y_test), float(best)


def run_one(name, seed, args):
    """-> a line of the results."""
    workdir = args.out / f"{name}_{seed}"
    began = time.time()
    pretrain(config_of(name, seed, args.data, args.steps), workdir, announce=lambda text: None)
    seconds = time.time() - began
    losses = [line["eval_loss"] for line in read_metrics(workdir / "metrics.jsonl") if "eval_loss" in line]
    parts = []
    for split, count in (("train", FITTED), ("test", 10_000)):
        config = config_of(name, seed, args.data, args.steps)
        parts.append(features(config, workdir, open_source(args.data, split), count))
    accuracy, penalty = linear_probe(*parts)
    return {
        "name": name,
        "seed": seed,
        "steps": args.steps,
        "accuracy": accuracy,
        "penalty": penalty,
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
    done = read_metrics(results) if results.exists() else []
    for seed in map(int, args.seeds.split(",")):
        for name in args.only.split(","):
            if any(
                (line["name"], line["seed"], line["steps"]) == (name, seed, args.steps) for line in done
            ):
                continue
            line = run_one(name, seed, args)
            print(json.dumps(line), flush=True)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
