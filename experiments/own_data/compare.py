"""The value of pre-training on one's own photos: 3,000 of them, a laptop's processor, half an hour.

    python experiments/own_data/compare.py --data=PHOTOS --out=DIR [--seeds=0,1,2] [--arms=mae,scratch]

PHOTOS is a folder train/CLASS/*.jpg, test/CLASS/*.jpg. An arm pre-trains on train/ without its labels
by `configs/own.py:tiny` for PRETRAINING_EPOCHS, then fine-tunes on the same photos with their labels by
`configs/finetune.py:own`; "scratch" fine-tunes the same model without pre-training. Both end in the
accuracy on test/, of the last epoch; no choice is made on test/. The ridge probe is fitted on train/ at
the layer that is best on held-out photos of train/; for "scratch" it reads the features of the first
weights. A line of DIR/results.jsonl is one arm and seed; finished ones are not repeated and a run that
was cut off goes on.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import fastmim_jax
from fastmim_jax.io import append_json_line, read_json_lines

PRETRAINING_EPOCHS = 60  # about half of what the recipe chooses for 3,000 images, 111
FINETUNING_EPOCHS = 8
BACKBONE = {
    "model": "vit_ti8",
    "image_size": 64,
    "model__backbone__width": 128,
    "model__backbone__depth": 6,
    "model__backbone__heads": 4,
    "model__backbone__positions": "learned",
}
PRETRAINING = {
    "mae": {},
    "fastmim_hog": {"method__name": "fastmim", "method__target": "hog"},
    "fastmim_pixel": {"method__name": "fastmim"},
}


def cpu_seconds():
    """Return the processor seconds of this process and of those that it started and awaited."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def probe_of(run, data):
    """Return {"probe": accuracy at the layer that is best on held-out photos, "probe_layer": its name}."""
    lines = fastmim_jax.probe(run, data, kinds=("ridge",), log=lambda text: None)
    best = max(lines, key=lambda x: x.held_out)
    return {"probe": best.accuracies[0], "probe_layer": best.layer}


def pretrain(name, seed, args, folder, steps=0):
    """Pre-train by the recipe, or take `steps` steps that change nothing, for the first weights."""
    length = {"epochs": PRETRAINING_EPOCHS}
    if steps:
        length = {"schedule__steps": steps, "warmup_epochs": 0.0, "base_lr": 1e-12}
    return fastmim_jax.pretrain(
        args.data / "train",
        folder,
        config="configs/own.py:tiny",
        seed=seed,
        workers=0,
        picture_every=0,
        **PRETRAINING[name],
        **length,
    )


def finetune(name, seed, args, folder, init):
    """Fine-tune and return {"tuned": accuracy on test/ after the last epoch, ...}."""
    settings = {"epochs": FINETUNING_EPOCHS, "eval_epochs": 2, "workers": 0, "seed": seed}
    settings["model__dtype"] = "float32"
    if not init:
        settings.update(BACKBONE, layer_decay=1.0)
    fastmim_jax.finetune(args.data, folder, init=init, **settings)
    lines = [x for x in read_json_lines(folder / "metrics.jsonl").records if "top1" in x]
    return {"tuned": lines[-1]["top1"], "tuned_every_2_epochs": [x["top1"] for x in lines]}


def run_arm(name, seed, args):
    """Return a line of the results."""
    line = {"name": name, "seed": seed}
    before, after = args.out / f"{name}_{seed}", args.out / f"{name}_{seed}_tuned"
    start, cpu = time.time(), cpu_seconds()
    if name == "scratch":
        # One step at a learning rate of 0 writes the first weights, for the probe alone.
        first = pretrain("mae", seed, args, args.out / f"first_weights_{seed}", steps=1)
        line.update(probe_of(first, args.data))
        line.update(finetune(name, seed, args, after, ""))
    else:
        pretrain(name, seed, args, before)
        line.update(pretraining_cpu_seconds=round(cpu_seconds() - cpu))
        line.update(probe_of(before, args.data))
        line.update(finetune(name, seed, args, after, before))
    line.update(cpu_seconds=round(cpu_seconds() - cpu), wall_seconds=round(time.time() - start))
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default="mae,scratch")
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    done = {(line["name"], line["seed"]) for line in read_json_lines(results).records}
    for seed in map(int, args.seeds.split(",")):
        for name in args.arms.split(","):
            if (name, seed) not in done:
                line = run_arm(name, seed, args)
                print(json.dumps(line), flush=True)
                append_json_line(results, line)


if __name__ == "__main__":
    main()
