"""FastMIM on a laptop: a small ViT on the bundled photos, about 3 minutes on 2 CPU cores.

    fastmim pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Crops of 12 photos at 48 px, tokens and blocks of 8 px, 60 % masked; a ViT of width 64 and depth 3; 2,000
steps of 64 images. The model learns the mean target in the first 300 steps and continues visible edges
after about 1,000. Its loss ends well below the better trivial predictor, also on held-out regions of the
photos; `pictures/` shows its reconstructions. (The paper masks 75 % of 16-px blocks at 128 px; this config
has a size that trains on a laptop in minutes.)
Add --config.data.path=DIR to train on your own folder.
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
