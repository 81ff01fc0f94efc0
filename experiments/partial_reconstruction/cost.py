"""Savings of partial reconstruction in a MAE training step, as the compilers count them.

    python experiments/partial_reconstruction/cost.py --out=FILE.json

The table of README.md comes from its measured_cost.json: `python experiments/make_tables.py`.
The step is the package's own for `configs/mae.py:vit_b16` at 224 px (forward, backward, AdamW), built by
`fastmim_jax.train.pretrain` and never run. Three counters: matrix products of its jaxpr, XLA's analysis for
a CPU (float32, one device), and the TPU compiler's for each chip of four TPU v5e (bfloat16). The last needs
libtpu but no TPU. Layers are unrolled, without remat beyond the model's own. Savings are relative to the
first ratio, 0.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # arrays stay there; the TPU is only compiled for
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # else a second process fails
os.environ.setdefault("TPU_LOG_DIR", "disabled")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # this and the next only silence warnings
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
import numpy as np
from jax.experimental import topologies

from fastmim_jax.errors import UserError
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.train.pretrain import make_pretrain_stage

CONFIG = Path(__file__).parents[2] / "configs/mae.py"
RECORDS = 1_281_167  # ImageNet-1k; no figure depends on it
CPU_BATCH, CHIP_BATCH = 8, 64  # images on a device
TOPOLOGY = "v5e:2x2"
EFFORTS = {"O1": "O1", "default": "UNKNOWN"}  # of the TPU compiler: this script's name, JAX's
RATIO, FEWER_FLOPS, LESS_MEMORY = 0.5, 27.5, 36.0  # thresholds: at this ratio at least these percentages
FLOP_COUNTERS = ("step_flops", "cpu_flops", "tpu_flops")


def build(ratio, dtype, devices, images, fsdp=1):
    """The project's Run with so many images on each device, and its batch as shapes."""
    config = runpy.run_path(str(CONFIG))["get_config"]("vit_b16")
    config.method.partial.throw_ratio = ratio
    config.method.dtype = dtype
    config.run.mesh_fsdp = fsdp
    config.schedule.batch_size = count = images * len(devices)
    shape = (count, *config.data.image_size, config.data.channels)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "flip": jax.ShapeDtypeStruct(shape[:1], bool),
    }
    return make_pretrain_stage(config, RECORDS, devices), batch


def cpu_figures(ratio):
    """Return the figures that need no TPU compiler; FLOPs are per image."""
    run, batch = build(ratio, "float32", jax.devices()[:1], CPU_BATCH)
    index = jax.ShapeDtypeStruct((), np.int32)
    with jax.set_mesh(run.mesh):
        forward = matrix_flops(run.loss.jitted.__wrapped__, run.variables, batch, index)
        step = matrix_flops(run.step.jitted.__wrapped__, run.abstract, batch)
        lowered = run.step.jitted.lower(run.abstract, batch)
        compiled = lowered.compile()
    return {
        "forward_flops": forward / CPU_BATCH,
        "step_flops": step / CPU_BATCH,
        "cpu_lowered_flops": lowered.cost_analysis()["flops"] / CPU_BATCH,
        "cpu_flops": compiled.cost_analysis()["flops"] / CPU_BATCH,
        "cpu_temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "sampling_steps": _num_decoded(run, ratio) if ratio else 0,
    }


def _num_decoded(run, ratio):
    """Return how many masked tokens of an image farthest-point sampling picks to decode."""
    rows, columns = run.plan.grid
    return run.plan.num_masked - int(rows * columns * ratio)


def tpu_figures(ratio, fsdp, effort):
    """Return the TPU compiler's figures for one chip; FLOPs are per image."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    run, batch = build(ratio, "bfloat16", list(devices), CHIP_BATCH, fsdp)
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", EFFORTS[effort])
    try:
        with jax.set_mesh(run.mesh):
            compiled = run.step.jitted.lower(run.abstract, batch).compile()
    finally:
        jax.config.update("jax_optimization_level", before)
    memory = compiled.memory_analysis()
    return {
        "tpu_flops": compiled.cost_analysis()["flops"] / CHIP_BATCH,
        "tpu_argument_bytes": memory.argument_size_in_bytes,
        "tpu_temporary_bytes": memory.temp_size_in_bytes,
        "tpu_peak_bytes": memory.peak_memory_in_bytes,
    }


def measure(ratios, with_tpu, fsdp, effort):
    """Return [{figure: number}], one entry per ratio, the first for ratio 0."""
    results = []
    for ratio in ratios:
        result = {"throw_ratio": ratio, **cpu_figures(ratio)}
        if with_tpu:
            result.update(tpu_figures(ratio, fsdp, effort))
        results.append(result)
        print(f"compiled with throw_ratio {ratio:g}", file=sys.stderr, flush=True)
    return results


def saving(results, result, key):
    """Return the saving of a figure relative to the first result, in percent."""
    return 100 * (1 - result[key] / results[0][key])


def verdict(results, where):
    """Return (True if every threshold is met, a line for the report)."""
    at_ratio = [result for result in results if result["throw_ratio"] == RATIO]
    if not at_ratio:
        return True, f"Verdict: none, throw_ratio {RATIO:g} was not among the ratios."
    keys = [key for key in FLOP_COUNTERS if key in at_ratio[0]]
    flops = min(saving(results, at_ratio[0], key) for key in keys)
    passed = flops >= FEWER_FLOPS
    text = (
        f"at least {flops:.1f} % fewer training FLOPs by each of {len(keys)} counters "
        f"(bar {FEWER_FLOPS:g} %: {_word(passed)})"
    )
    if "tpu_peak_bytes" not in at_ratio[0]:
        return passed, f"Verdict at {RATIO:g}: {text}; peak memory not checked (bar {LESS_MEMORY:g} %)."
    memory = saving(results, at_ratio[0], "tpu_peak_bytes")
    enough = memory >= LESS_MEMORY
    text += f"; {memory:.1f} % less peak memory, {where} (bar {LESS_MEMORY:g} %: {_word(enough)})"
    return passed and enough, f"Verdict at {RATIO:g}: {text}."


def _word(passed):
    return "met" if passed else "MISSED"


def _ratios(text):
    """Parse a comma-separated list of ratios; 0 comes first."""
    return [0.0, *sorted({float(ratio) for ratio in text.split(",")} - {0.0})]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratios", type=_ratios, default="0,0.25,0.5", help="values of throw_ratio")
    parser.add_argument("--skip-tpu", action="store_true", help="leave out the TPU compiler")
    parser.add_argument(
        "--fsdp", type=int, choices=(1, 2, 4), default=2, help="chips that share parameters"
    )
    parser.add_argument("--effort", choices=EFFORTS, default="O1", help="of the TPU compiler")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    args = parser.parse_args()
    with_tpu = not args.skip_tpu and importlib.util.find_spec("libtpu") is not None
    if not with_tpu and not args.skip_tpu:
        print('TPU part skipped, there is no libtpu: pip install "fastmim_jax[tpu]"')
    about = {"jax": jax.__version__}
    if with_tpu:
        about["libtpu"] = importlib.metadata.version("libtpu")
        about.update(topology=TOPOLOGY, images_a_chip=CHIP_BATCH, fsdp=args.fsdp, effort=args.effort)
    try:
        results = measure(args.ratios, with_tpu, args.fsdp, args.effort)
    except UserError as error:
        parser.error(str(error))
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    if args.out:
        args.out.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
    passed, line = verdict(results, f"mesh {4 // args.fsdp} x {args.fsdp}, effort {args.effort}")
    print(line)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
