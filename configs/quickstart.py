"""FastMIM on a laptop: a small ViT on the bundled photos, about 3 minutes on 2 CPU cores.

    fastmim pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Squares of 12 photos at 64 px, 8-px tokens, 16-px blocks; a ViT 96 wide and 4 blocks deep, 600 steps of 64
images. The loss ends at least 8 % below the better trivial predictor (the mean target), that on
regions of the photos that are not trained on ends below it too, and `pictures/` shows what it fills in.
The same model learns from any folder: add --config.data.path=DIR.
"""

from fastmim_jax.config import base


def get_config():
    """The config."""
    config = base()
    config.data.path = "sample"
    config.data.image_size = (64, 64)
    config.data.eval_split = "test"
    config.method.backbone.update(name="vit_ti8", width=96, depth=4, heads=3)
    config.method.decoder.update(width=64, depth=1)
    config.method.dtype = "float32"
    config.optimizer.base_lr = 6e-3
    config.schedule.batch_size = 64
    config.schedule.steps = 600
    config.schedule.warmup_epochs = 1.0
    config.run.eval_every = 100
    config.run.picture_every = 200
    config.run.checkpoint_every = 200
    return config
