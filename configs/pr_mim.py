"""PR-MIM (arXiv 2411.15746): half of all tokens are not decoded, but filled in from their neighbours.

    fastmim pretrain --config=configs/pr_mim.py:mae_vit_b16 --config.data.path=DIR --workdir=runs/pr_mim

variant       host and recipe          visible, decoded, thrown tokens  published, at equal quality
mae_vit_b16   configs/mae.py:vit_b16   49, 49, 98 of 196                28 % fewer FLOPs, 36 % less memory
mae_vit_l16   configs/mae.py:vit_l16   49, 49, 98 of 196                no figure
mae_vit_ti16  configs/mae.py:vit_ti16  49, 49, 98 of 196                no figure
mixmim_base   configs/mixmim.py:base   25, 12, 12 of 49, twice          no figure

The paper's code is not published, and only its abstract was available. It gives the figures above and says
that "thrown" tokens are reconstructed in stages, at little cost, around the tokens that furthest-point
sampling selects for decoding. All other details are our own design; `--config.method.partial.*` selects
alternatives. `--config.method.partial.throw_ratio=0.5` adds partial reconstruction to any config with a
decoder.
"""

import runpy
from pathlib import Path

from fastmim_jax.config import check_variant

VARIANTS = {  # variant: file, variant of it
    "mae_vit_b16": ("mae.py", "vit_b16"),
    "mae_vit_ti16": ("mae.py", "vit_ti16"),
    "mae_vit_l16": ("mae.py", "vit_l16"),
    "mixmim_base": ("mixmim.py", "base"),
}


def get_config(variant="mae_vit_b16"):
    """Return the config of a variant."""
    check_variant("configs/pr_mim.py", variant, VARIANTS)
    file, recipe = VARIANTS[variant]
    config = runpy.run_path(str(Path(__file__).with_name(file)))["get_config"](recipe)
    config.method.partial.throw_ratio = 0.5
    return config
