"""FastMIM-P (arXiv 2212.06593): FastMIM with progressively larger images.

    fastmim pretrain --config=configs/fastmim_p.py:swin_b --config.data.path=DIR --workdir=runs/swin_b_p

All variants and recipes of configs/fastmim.py, in three stages of equally many epochs at 128, 160 and
192 px. The paper does not publish its sizes and start epochs, and its code does not implement stages; these
values are our own. One cosine spans all stages. The windows of a Swin grow with the images (4, 5, 6 cells);
its bias tables, and CMT's positions, are resampled at each switch; a ViT's positions are recomputed.

Every key of `config.stages` takes one entry per stage, for example

    --config.stages.image_sizes="(96, 128, 192)" --config.stages.start_epochs="(0, 200, 300)"
    --config.stages.batch_sizes="(4096, 2048, 2048)"     the learning rate follows each stage's batch
    --config.stages.accumulations="(1, 2, 4)"            the same batch in parts, to fit in memory
"""

import runpy
from pathlib import Path

fastmim = runpy.run_path(str(Path(__file__).with_name("fastmim.py")))
VARIANTS = fastmim["VARIANTS"]


def get_config(variant="vit_b16"):
    """Return the config of a variant."""
    config = fastmim["get_config"](variant)
    config.stages.image_sizes = (128, 160, 192)
    return config
