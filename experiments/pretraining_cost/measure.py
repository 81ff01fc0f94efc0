"""Cost of a training step: FastMIM at 128 px against SimMIM and MAE on the same backbone.

    python experiments/pretraining_cost/measure.py --batch=16 --out=FILE.json

Full steps (forward, backward, AdamW) through `fastmim_jax.train.steps.pretrain_step`, on one device and
on random uint8 images in its memory. The methods alternate within one process, so that changes of the
machine's speed affect all of them; ratios are taken within a turn.

The methods are the recipes of `configs/`, all with FastMIM's AdamW. MAE and SimMIM use FastMIM's backbone
with the changes of their own recipes.
"""

import argparse
import json
import os
import runpy
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.build import create_method
from fastmim_jax.config import CHOICES
from fastmim_jax.data.device import channel_statistics, normalize
from fastmim_jax.errors import UserError
from fastmim_jax.models.vit import ViT
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.train.optimizer import make_optimizer
from fastmim_jax.train.state import initializer
from fastmim_jax.train.steps import pretrain_step

WARMUP_STEPS, TIMED_STEPS = 2, 3  # in a turn
CHANNELS = 3
CONFIGS = Path(__file__).parents[2] / "configs"


class Contestant(NamedTuple):
    """A pre-training method and the side of its square images."""

    name: str
    pixels: int
    method: nn.Module


def contestants(backbone, dtype, layers):
    """Return [Contestant] for a variant of configs/fastmim.py, FastMIM as published first."""
    fastmim = _recipe("fastmim", backbone)
    entries = [("FastMIM", fastmim.data.image_size[0], fastmim)]
    if isinstance(create_method(fastmim.method).encoder, ViT):
        entries += [("MAE", 224, _recipe("mae", "vit_b16")), ("SimMIM", 224, _recipe("simmim", "vit_b16"))]
    else:  # 192 px is SimMIM's own choice for Swin
        entries += [("SimMIM", side, _recipe("simmim", "swin_b")) for side in (192, 224)]
    for _, _, config in entries:
        config.method.update(dtype=dtype, layers=layers)
        config.method.backbone.name = fastmim.method.backbone.name
    return [Contestant(name, side, create_method(config.method)) for name, side, config in entries]


def _recipe(file, variant):
    """Return the config of a variant of configs/FILE.py."""
    return runpy.run_path(str(CONFIGS / f"{file}.py"))["get_config"](variant)


class Training:
    """A contestant's compiled step, its state, and one batch, used for every step."""

    def __init__(self, contestant, batch_size, optimizer):
        method, side = contestant.method, contestant.pixels
        init = initializer(method, partial(make_optimizer, **optimizer), (side, side, CHANNELS))
        abstract = jax.eval_shape(init, jax.random.key(0))
        mean, std = channel_statistics(CHANNELS)
        step = partial(
            pretrain_step,
            method=method,
            prepare=partial(normalize, mean=mean, std=std),
            optimizer=make_optimizer(abstract.params, **optimizer),
            schedule=lambda step: jnp.float32(1e-5),
            key=jax.random.key(1),
        )
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (batch_size, side, side, CHANNELS), np.uint8)
        self._batch = jax.device_put({"image": images, "flip": random.random(batch_size) < 0.5})
        start = time.perf_counter()
        self._step = jax.jit(step, donate_argnums=0).lower(abstract, self._batch).compile()
        compile_seconds = time.perf_counter() - start
        self.figures = {
            "method": contestant.name,
            "pixels": side,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
            "training_gflops_per_image": 3 * _forward_flops(method, abstract, side) / 1e9,
            "compile_seconds": compile_seconds,
            "temporary_bytes": _temporary_bytes(self._step),
        }
        self._state = jax.jit(init)(jax.random.key(0))

    def turn(self):
        """Return the median seconds of a step, after warm-up steps, and the last loss."""
        times = []
        for _ in range(WARMUP_STEPS + TIMED_STEPS):
            start = time.perf_counter()
            self._state, metrics = self._step(self._state, self._batch)
            jax.block_until_ready((self._state, metrics))
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARMUP_STEPS:]), float(metrics["loss"])


def _forward_flops(method, abstract, side):
    """Return the matrix FLOPs of the forward pass of one image."""
    images = jax.ShapeDtypeStruct((1, side, side, CHANNELS), np.float32)
    noise = jax.ShapeDtypeStruct(method.noise_shape(images.shape), np.float32)

    def forward(params, images, noise):
        return method.apply({"params": params, **abstract.collections}, images, noise=noise).loss

    return matrix_flops(forward, abstract.params, images, noise)


def _temporary_bytes(compiled):
    """Return the compiler's temporary memory of a step; None if the backend does not report it."""
    analysis = compiled.memory_analysis()
    return analysis.temp_size_in_bytes if analysis else None


def measure(backbone, batch_size, dtype, repeats, layers):
    """Return {"backbone", "methods": [{name: figure}]}; ratios are relative to FastMIM, the first."""
    entries = contestants(backbone, dtype, layers)
    optimizer = _recipe("fastmim", backbone).optimizer
    options = {key: optimizer[key] for key in ("epsilon", "weight_decay", "clip_norm")}
    options["betas"] = tuple(optimizer.betas)
    trainings = []
    for entry in entries:
        trainings.append(Training(entry, batch_size, options))
        seconds = trainings[-1].figures["compile_seconds"]
        print(f"{backbone}: {entry.name} {entry.pixels} px compiled in {seconds:.0f} s", flush=True)

    turns = []
    for index in range(repeats):
        turns.append([training.turn() for training in trainings])
        times = ", ".join(f"{seconds:.3f}" for seconds, _ in turns[-1])
        print(f"{backbone}: turn {index + 1} of {repeats}, s/step: {times}", flush=True)

    rows = []
    for training, results in zip(trainings, zip(*turns, strict=True), strict=True):
        seconds = [second for second, _ in results]
        ratios = [own / first[0][0] for own, first in zip(seconds, turns, strict=True)]
        rows.append(
            {
                **training.figures,
                "step_seconds": statistics.median(seconds),
                "images_per_second": batch_size / statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "turns_step_seconds": seconds,
                "turns_ratio": ratios,
                "last_loss": results[-1][1],
            }
        )
    for row in rows:
        row["gflops_ratio"] = row["training_gflops_per_image"] / rows[0]["training_gflops_per_image"]
    return {"backbone": backbone, "methods": rows}


COLUMNS = "method | px | s/step | images/s | ratio | GFLOPs/image | ratio of FLOPs | temporaries, GB"


def table(results):
    """Return the lines of a Markdown table."""
    lines = [f"| {COLUMNS} |", "|---" * len(COLUMNS.split("|")) + "|"]
    for result in results:
        for row in result["methods"]:
            memory = row["temporary_bytes"]
            cells = [
                f"{row['method']} {result['backbone']}",
                f"{row['pixels']}",
                f"{row['step_seconds']:.3g} ({_spread(row['turns_step_seconds'])})",
                f"{row['images_per_second']:.3g}",
                f"{row['ratio']:.2f} ({_spread(row['turns_ratio'], '.2f')})",
                f"{row['training_gflops_per_image']:.1f}",
                f"{row['gflops_ratio']:.2f}",
                "–" if memory is None else f"{memory / 1e9:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values, form=".3g"):
    return f"{min(values):{form}} to {max(values):{form}}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="images in a step")
    parser.add_argument("--dtype", choices=CHOICES["method.dtype"], default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every method")
    parser.add_argument("--backbones", default="vit_b16,swin_b", help="variants of configs/fastmim.py")
    parser.add_argument("--layers", choices=CHOICES["method.layers"], default="unrolled")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    args = parser.parse_args()
    if min(args.batch, args.repeats) < 1:
        parser.error("--batch and --repeats must be at least 1")
    about = {
        "device": jax.devices()[0].device_kind,
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "batch": args.batch,
        "dtype": args.dtype,
        "layers": args.layers,
    }
    try:
        results = [
            measure(backbone, args.batch, args.dtype, args.repeats, args.layers)
            for backbone in args.backbones.split(",")
        ]
    except UserError as error:
        parser.error(str(error))
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"median of {args.repeats} turns (min to max); {TIMED_STEPS} steps after {WARMUP_STEPS} in each\n"
    )
    print("\n".join(table(results)))
    if args.out:
        args.out.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
