"""FastMIM on a laptop: a small ViT on the bundled photos, about 3 minutes on 2 CPU cores.

    fastmim pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Squares of 12 photos at 48 px, 8-px tokens and blocks, 60 % hidden; a ViT 64 wide and 3 blocks deep, 2,000
steps of 64 images. The first 300 steps find the mean target, after about 1,000 the model begins to go on
from visible edges; it ends well below the better trivial predictor, on regions of the photos that are
not trained on too, and `pictures/` shows what it fills in. (The paper hides 75 % of 16-px blocks at 128
px; this is its method at a size that a laptop can learn in minutes.)
The same model learns from any folder: add --config.data.path=DIR.
"""

from fastmim_jax.config import pretrain_config


def get_config():
    """Return the config."""
    config = pretrain_config()
    config.data.path = "sample"
    config.data.image_size = (48, 48)
    config.data.eval_split = "test"
    config.method.backbone.update(name="vit_ti8", width=64, depth=3, heads=2)
    config.method.decoder.update(width=32, depth=1)
    config.method.update(block_size=8, mask_ratio=0.6, dtype="float32")
    config.optimizer.base_lr = 1.6e-2
    config.schedule.batch_size = 64
    config.schedule.steps = 2000
    config.schedule.warmup_epochs = 1.0
    config.run.eval_every = 200
    config.run.picture_every = 500
    config.run.checkpoint_every = 500
    return config
