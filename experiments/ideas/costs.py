"""FLOPs of a training step of every idea beside its base method, and the memory of some.

    python experiments/ideas/costs.py --out=experiments/ideas/costs.json

The steps are those of the config files (forward, backward, AdamW), built by `fastmim_jax.train.pretrain`
and never run. FLOPs: the matrix products of the jaxpr, per image. Memory is what XLA plans for a
CPU (float32, 8 images, one device), for the rows that ask for it. `python experiments/make_tables.py`
writes the table of README.md from the file.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from fastmim_jax.recipes import load_config
from fastmim_jax.tools.flops import matrix_flops
from fastmim_jax.train.pretrain import make_pretrain_stage

RECORDS, BATCH = 1_281_167, 8  # images of ImageNet-1k, on which no figure depends; images of a step
ROWS = {  # name: (config, overrides, base, whether its memory is measured)
    "MAE": ("configs/mae.py:vit_b16", {}, "MAE", True),
    "PR-MIM, half thrown": ("configs/pr_mim.py:mae_vit_b16", {}, "MAE", True),
    "CrossMAE, half thrown": ("configs/crossmae.py:vit_b16", {}, "MAE", True),
    "CrossMAE, none thrown": (
        "configs/crossmae.py:vit_b16",
        {"method.partial.throw_ratio": 0.0},
        "MAE",
        False,
    ),
    "LocalMIM, 4 layers": ("configs/localmim.py:vit_b16", {}, "MAE", False),
    "MFF": ("configs/mae.py:vit_b16_mff", {}, "MAE", False),
    "ColorMAE, green": ("configs/mae.py:vit_b16_green", {}, "MAE", False),
    "MAE, mask grid 2": ("configs/mae.py:vit_b16", {"method.mask_grid": 2}, "MAE", False),
    "MAE ViT-H/16, 256 px": (
        "configs/mae.py:vit_h14",
        {"method.backbone.name": "vit_h16", "method.block_size": 16, "data.image_size": (256, 256)},
        "MAE ViT-H/16, 256 px",
        False,
    ),
    "Pixio": ("configs/mae.py:vit_h16_pixio", {}, "MAE ViT-H/16, 256 px", False),
    "FastMIM": ("configs/fastmim.py:vit_b16", {}, "FastMIM", False),
    "FastMIM, green": ("configs/fastmim.py:vit_b16", {"method.mask_noise": "green"}, "FastMIM", False),
}


def measure(name):
    """Return {"base": a row, "step_flops": per image, "temporary_bytes": or None} of a row."""
    recipe, overrides, base, with_memory = ROWS[name]
    config = load_config(recipe)
    config.update_from_flattened_dict(overrides)
    config.method.dtype, config.schedule.batch_size, config.schedule.accumulation = "float32", BATCH, 1
    stage = make_pretrain_stage(config, RECORDS, jax.devices()[:1])
    shape = (BATCH, *config.data.image_size, config.data.channels)
    batch = {"image": jax.ShapeDtypeStruct(shape, np.uint8), "flip": jax.ShapeDtypeStruct(shape[:1], bool)}
    with jax.set_mesh(stage.mesh):
        flops = matrix_flops(stage.step.jitted.__wrapped__, stage.abstract, batch) / BATCH
        if not with_memory:
            return {"base": base, "step_flops": flops, "temporary_bytes": None}
        compiled = stage.step.jitted.lower(stage.abstract, batch).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    return {"base": base, "step_flops": flops, "temporary_bytes": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; rows that it has are kept")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in ROWS:
        results[name] = results.get(name) or measure(name)
        args.out.write_text(
            json.dumps({row: results[row] for row in ROWS if row in results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
