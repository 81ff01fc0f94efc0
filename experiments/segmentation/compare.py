"""Segmentation from scratch and after pre-training, fine-tuned and with a frozen backbone, on 200 scenes.

    python experiments/segmentation/compare.py --out=DIR
    python experiments/segmentation/compare.py --out=DIR --photos=OWN_DATA  # --out of experiments/own_data
    python experiments/segmentation/compare.py --out=DIR --seeds=0 --only=scratch --steps=3  # a try

Every arm is a run of `fastmim segment` of ten minutes at most on two CPU cores; pre-training is
on the bundled photos (`data.path=sample`, whose training squares come from the same left 70 %). A line of
results.jsonl is written when an arm ends: the same command goes on with the next one, and a run that was
stopped resumes. Rates were not tuned for any arm.
"""

import argparse
import json
import time
from pathlib import Path

from scenes import write_scenes

from fastmim_jax.evaluate.segmentation.baselines import measure_baselines
from fastmim_jax.evaluate.segmentation.best import BestSegmentation
from fastmim_jax.recipes import load_config
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.segment import segment

HERE = Path(__file__).parent
BACKBONE = dict(name="vit_ti8", width=128, depth=6, heads=4)
METHODS = ("scratch", "mae", "fastmim", "simmim")
PHOTOS = "mae_photos"  # MAE on the 3,000 photos of experiments/own_data, if --photos is given
HEADS = ("finetuned", "frozen")
FROZEN_DECAY = 1e-4  # of the rate from the head to the last block: the backbone stays as it was


def pretrain_once(method, folder, steps, seed):
    """-> the work directory of a pre-training run, which resumes or is done already."""
    config = load_config("configs/own.py:tiny")
    config.seed = seed
    config.data.path = "sample"
    config.method.name = method
    config.method.target = "hog" if method == "fastmim" else "pixel"
    config.method.backbone.update(**BACKBONE)
    config.schedule.steps = steps
    config.run.update(picture_every=0, checkpoint_every=200)
    workdir = folder / f"{method}_{seed}_{steps}"
    pretrain(config, workdir)
    return workdir


def train(data, folder, method, head, seed, start, steps):
    """-> {"miou", ..., "to_beat"} of a run of segmentation."""
    config = load_config("configs/segment.py:tiny")
    config.seed, config.init = seed, str(start or "")
    config.data.path = str(data)
    if start is None:
        config.model.backbone.update(**BACKBONE, positions="learned")
        config.optimizer.layer_decay = 1.0  # new parameters learn alike
    if head == "frozen":
        config.optimizer.layer_decay = FROZEN_DECAY
        config.model.backbone.drop_path = 0.0
    config.schedule.steps = steps
    workdir, began = folder / f"{method}_{head}_{seed}_{steps}", time.process_time()
    segment(config, workdir, BestSegmentation, measure_baselines=measure_baselines)
    found = json.loads((workdir / "evaluation.json").read_text())
    scores = {key: found[key] for key in ("step", "miou", "pixel_accuracy", "mean_class_accuracy")}
    to_beat = json.loads((workdir / "baselines.json").read_text())[0]["evaluation"]
    return {**scores, "to_beat": to_beat, "cpu_seconds": round(time.process_time() - began)}


def start_of(method, seed, options):
    """-> the run to start from, or None."""
    if method == "scratch":
        return None
    if method == PHOTOS:
        return options.photos / f"mae_{seed}"
    return pretrain_once(method, options.out, options.pretrain_steps, seed)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, runs and the log")
    parser.add_argument("--only", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument(
        "--photos", type=Path, help=f"--out of experiments/own_data/compare.py, for {PHOTOS}"
    )
    parser.add_argument("--heads", default=",".join(HEADS), help=f"of {', '.join(HEADS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300, help="updates of 16 crops, of segmentation")
    parser.add_argument("--pretrain-steps", type=int, default=500, help="updates of pre-training")
    options = parser.parse_args()
    data, log = options.out / "scenes", options.out / "results.jsonl"
    if not (data / "classes.txt").exists():
        write_scenes(data)
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    methods = [*options.only.split(","), *([PHOTOS] if options.photos else [])]
    for seed in map(int, options.seeds.split(",")):
        for method in methods:
            for head in options.heads.split(","):
                arm = dict(method=method, head=head, seed=seed, steps=options.steps)
                if any(arm.items() <= line.items() for line in done):
                    continue
                start = start_of(method, seed, options)
                found = train(data, options.out, method, head, seed, start, options.steps)
                with log.open("a") as file:
                    file.write(json.dumps({**arm, **found}) + "\n")


if __name__ == "__main__":
    main()
