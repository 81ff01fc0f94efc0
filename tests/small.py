"""Tiny methods and configs that the tests share."""

from fastmim_jax import create_method
from fastmim_jax.config import base


def published_method(config, mask_ratio=0.75):
    """FastMIM over a ViT from the constructor arguments of the published class."""
    method = base().method
    method.backbone.update(
        name="vit_b16",
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=float(config["mlp_ratio"]),
    )
    method.update(
        target="hog" if config["mim_loss"] == "HOG" else "pixel",
        normalize_target=config["norm_pix_loss"],
        block_size=config["block_size"],
        mask_ratio=mask_ratio,
        dtype="float32",
    )
    method.decoder.update(
        width=config["decoder_embed_dim"],
        depth=config["decoder_depth"],
        mlp_ratio=float(config["mlp_ratio"]),
    )
    return create_method(method)


def config(data="sample", **schedule):
    """A config that trains in seconds: 32-px images, a ViT 32 wide, batches of 16."""
    config = base()
    config.data.update(path=str(data), image_size=(32, 32), eval_records=16)
    config.method.backbone.update(name="vit_ti8", width=32, depth=2, heads=2)
    config.method.decoder.update(width=32, depth=1)
    config.method.update(dtype="float32", block_size=8)
    config.schedule.update(batch_size=16, steps=8, warmup_epochs=0.1)
    config.schedule.update(**schedule)
    config.optimizer.base_lr = 1.6e-2  # 1e-3 for 16 images
    config.run.update(log_every=1, picture_every=0, checkpoint_every=3, workers=0, threads=2)
    return config
