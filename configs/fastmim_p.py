"""FastMIM-P (arXiv 2212.06593): FastMIM whose images grow while it trains.

    fastmim pretrain --config=configs/fastmim_p.py:swin_b --config.data.path=DIR --workdir=runs/swin_b_p

Every variant of configs/fastmim.py, with the same recipe, in three stages of equally many epochs at 128,
160 and 192 px. The paper's own sizes and starts are not published, and its code cannot run them; these
are ours. One cosine spans all stages. A Swin's windows grow with its images (4, 5, 6 cells) and its bias
tables are resampled at each switch, as CMT's positions are; a ViT's positions are computed anew.

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
