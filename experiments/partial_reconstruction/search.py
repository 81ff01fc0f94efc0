"""A search for the settings in which PR-MIM beats plain partial reconstruction.

    fastmim prepare CIFAR10 RECORDS --format=raw --short_side=0
    python experiments/partial_reconstruction/search.py --data=RECORDS --out=DIR
    cp DIR/results.jsonl experiments/partial_reconstruction/searched.jsonl
    python experiments/make_tables.py

CIFAR10 is a folder train/CLASS/*.png, test/CLASS/*.png. A small MAE is pre-trained for every share of
thrown tokens, length, depth of the decoder, way to choose and fill the thrown tokens, and seed. A ridge
probe of its frozen features is fitted after half of the updates and after all, to three numbers of labels.
Each program is compiled once, for all seeds: they differ in the first weights and in the order and crops of
the images, and share the masks. A line of DIR/results.jsonl is a pre-training, checkpoint and number of
labels; finished pre-trainings are not repeated. All arms of a length and share come before the next seed,
so that a search that is cut off is balanced.
"""

import argparse
import itertools
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmim_jax import make_step
from fastmim_jax.config import pretrain_config
from fastmim_jax.data.ram_cache import cache_in_memory
from fastmim_jax.data.sources import labelled, open_source
from fastmim_jax.evaluate.monitor import make_backbone_of
from fastmim_jax.evaluate.probe import sample_records
from fastmim_jax.evaluate.probes import ridge
from fastmim_jax.io import append_json_line, read_json_lines
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.tools.step_cost import forward_function

KINDS: dict[str, dict[str, Any]] = {
    "pr_mim": {"sampler": "furthest", "fill": "progressive"},
    "plain": {"sampler": "random", "fill": "none"},
}
DEPTHS = (1, 4)  # blocks of the decoder
BATCH = 32  # images per update
BASE_LR = 8e-3  # for 256 images: 1e-3 for these
LABELS = (2000, 400, 100)  # of the probe
DRAWS = 5  # disjoint choices of the fewer labels; accuracies are their means
TESTED = 4000  # images
LAYER = "block 4 mean"  # the last


class Arm(NamedTuple):
    """A pre-training but for its seed.

    Attributes:
      kind: a key of KINDS, or "mae", which throws nothing.
      throw_ratio: share of the tokens.
      decoder_depth: blocks.
      of_updates: its length.
    """

    kind: str
    throw_ratio: float
    decoder_depth: int
    of_updates: int


def arms_of(ratio: float, updates: int) -> list[Arm]:
    """Return the arms of a throw ratio and length."""
    return [Arm(kind, ratio, depth, updates) for depth in DEPTHS for kind in (KINDS if ratio else ("mae",))]


def config_of(arm: Arm, seed: int, records: int) -> Any:
    """Return the config of a ViT 64 wide, 4 deep, 64 patches; the decoder is 64 wide."""
    config = pretrain_config()
    config.seed = seed
    config.data.image_size = (32, 32)
    config.method.update(name="mae", target="pixel", block_size=4, dtype="float32")
    config.method.backbone.update(name="vit_ti4", width=64, depth=4, heads=2)
    config.method.decoder.update(width=64, depth=arm.decoder_depth, heads=2)
    config.method.partial.update(throw_ratio=arm.throw_ratio, **KINDS.get(arm.kind, {}))
    config.optimizer.base_lr = BASE_LR
    config.schedule.update(batch_size=BATCH, steps=arm.of_updates, accumulation=1)
    config.schedule.warmup_epochs = 0.1 * arm.of_updates * BATCH / records
    config.run.update(workers=0, threads=1)
    return config


class Bench:
    """The images in memory, and the programs of the arms.

    Args:
      data: prepared images with a train and a test split.
    """

    def __init__(self, data: Path):
        train, self.test = (labelled(open_source(data, split)) for split in ("train", "test"))
        self.train = cache_in_memory(train, 1, print)
        self.stages: dict[Arm, Any] = {}

    def run(self, arm: Arm, seed: int) -> Iterator[dict]:
        """Pre-train, and yield the lines of the results."""
        own = make_step(config_of(arm, seed, len(self.train)), len(self.train))[1]
        stage = self.stages.setdefault(arm, own.stage)
        facts = {**arm._asdict(), "seed": seed, "step_gflops": step_gflops(stage)}
        backbone_of, state = make_backbone_of(stage), own.init()
        seconds, losses = 0.0, []
        with stage.loader(self.train, batch_size=BATCH, seed=seed, workers=0) as loader:
            batches, before = iter(loader), cpu_seconds()
            for update in range(1, arm.of_updates + 1):
                state, metrics = stage.step(state, stage.to_devices(next(batches), BATCH))
                losses.append(metrics["loss"])
                if update in (arm.of_updates // 2, arm.of_updates):
                    loss = round(float(np.mean(jax.device_get(losses[-50:]))), 4)
                    seconds += cpu_seconds() - before
                    costs = {"loss": loss, "cpu_seconds": round(seconds, 1)}
                    for line in self.probe(backbone_of(state)):
                        yield {**facts, "updates": update, **line, **costs}
                    before = cpu_seconds()

    def probe(self, backbone: Any) -> Iterator[dict]:
        """Yield the accuracy of the probe for every number of labels."""
        sizes = ((self.train, LABELS[0]), (self.test, TESTED))
        train, test = (
            backbone.features(source, [LAYER], sample_records(len(source), size, 0))
            for source, size in sizes
        )
        order = np.random.default_rng(0).permutation(len(train.label))
        for labels in LABELS:
            results = [
                ridge.probe(
                    (train.of[LAYER][ids], train.label[ids]),
                    (test.of[LAYER], test.label),
                    len(self.test.classes),
                )
                for ids in draws_of(order, labels)
            ]
            yield {"labels": labels, "accuracy": float(np.mean([x.accuracy for x in results]))}


def draws_of(order: np.ndarray, labels: int) -> list[np.ndarray]:
    """Return the labelled images of every draw, of their (n,) numbers in random order."""
    turns = DRAWS if labels < LABELS[0] else 1
    return [order[turn * labels :][:labels] for turn in range(turns)]


def step_gflops(stage: Any) -> float:
    """Return the matrix products of a training step, in GFLOPs an image."""
    return round(3 * matrix_flops(*forward_function(stage)) / 1e9, 6)  # backward: twice the forward pass


def cpu_seconds() -> float:
    """Return the processor seconds of this process."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", default="300,1200", help="of a pre-training")
    parser.add_argument("--ratios", default="0.5,0.65,0", help="throw ratios; 0: MAE")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results, bench = args.out / "results.jsonl", Bench(args.data)
    done = {(*(line[x] for x in Arm._fields), line["seed"]) for line in read_json_lines(results).records}
    lengths, seeds = ([int(x) for x in text.split(",")] for text in (args.updates, args.seeds))
    for updates, ratio in itertools.product(lengths, map(float, args.ratios.split(","))):
        for seed, arm in itertools.product(seeds, arms_of(ratio, updates)):
            if (*arm, seed) in done:
                continue
            begun = cpu_seconds()
            lines = list(bench.run(arm, seed))
            for line in lines:  # after the last checkpoint, so that no pre-training is half there
                append_json_line(results, line)
            print(lines[-1], f"{cpu_seconds() - begun:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
