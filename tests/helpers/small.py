"""Tiny methods and configs that the tests share."""

import jax
import numpy as np
from PIL import Image

from fastmim_jax import create_method
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.segment_config import segment_config


def _vit(config):
    return dict(
        name="vit_b16",
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=float(config["mlp_ratio"]),
    )


def _swin(config):
    return dict(
        name="swin_t",
        width=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        window=config["window_size"],
    )


def _cmt(config):
    return dict(
        name="cmt_s",
        stem_width=config["stem_channel"],
        widths=tuple(config["embed_dims"]),
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        mlp_ratio=float(config["mlp_ratios"][0]),
    )


def _pvtv2(config):
    return dict(
        name="pvt_v2_b2",
        widths=tuple(config["embed_dims"]),
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        mlp_ratios=tuple(config["mlp_ratios"]),
    )


BACKBONES = {"vit": _vit, "swin": _swin, "cmt": _cmt, "pvtv2": _pvtv2}


def published_method(family, case):
    """FastMIM from the constructor arguments of a published class, as a case of test data has them."""
    config, method = case["config"], pretrain_config().method
    method.backbone.update(BACKBONES[family](config))
    method.update(
        target="hog" if config["mim_loss"] == "HOG" else "pixel",
        normalize_target=config["norm_pix_loss"],
        block_size=config["block_size"],
        mask_ratio=case["mask_ratio"],
        dtype="float32",
    )
    method.decoder.update(
        width=config["decoder_embed_dim"],
        depth=config["decoder_depth"],
        mlp_ratio=float(config["mlp_ratio"] if "mlp_ratio" in config else 4),
        epsilon=1e-6 if family == "vit" else 1e-5,
    )
    return create_method(method)


def published_mae(case):
    """MAE from a case of test data."""
    config = case["config"]
    decoder = dict(width=config["decoder_embed_dim"], epsilon=1e-6)
    return _of_pixels("mae", case, _vit(config), config["patch_size"], decoder)


def mixmim_backbone(config):
    """The backbone's section from the constructor arguments of the published MixMIM."""
    return dict(
        name="mixmim_b",
        width=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        windows=tuple(config["window_size"]),
        mlp_ratio=float(config["mlp_ratio"]),
    )


def published_mixmim(case):
    """MixMIM from a case of test data."""
    config = case["config"]
    return _of_pixels(
        "mixmim", case, mixmim_backbone(config), 32, dict(width=config["decoder_dim"], epsilon=1e-5)
    )


def _of_pixels(name, case, backbone, block_size, decoder):
    """A method that predicts pixels, from what the constructors of MAE and MixMIM call alike."""
    config, method = case["config"], pretrain_config().method
    method.backbone.update(backbone)
    method.update(
        name=name,
        target="pixel",
        normalize_target=config["norm_pix_loss"],
        block_size=block_size,
        mask_ratio=case["mask_ratio"],
        dtype="float32",
    )
    method.decoder.update(
        depth=config["decoder_depth"],
        heads=config["decoder_num_heads"],
        mlp_ratio=float(config["mlp_ratio"]),
        **decoder,
    )
    return create_method(method)


def published_simmim(family, case):
    """SimMIM over "vit" or "swin" from a case of test data."""
    config, method = case["config"], pretrain_config().method
    method.backbone.update(BACKBONES[family](config))
    if family == "vit":
        relative = "shared" if config["use_shared_rel_pos_bias"] else "own"
        positions = "learned" if config["use_abs_pos_emb"] else "none"
        method.backbone.update(relative_positions=relative, positions=positions)
        method.backbone.layer_scale = config["init_values"]
    else:
        method.backbone.positions = "learned" if config.get("ape") else "none"
    method.update(
        name="simmim",
        target="pixel",
        normalize_target=False,
        block_size=case["block"],
        mask_ratio=case["mask_ratio"],
        dtype="float32",
    )
    return create_method(method)


def simmim(config):
    """The same config with SimMIM."""
    config.method.update(name="simmim", target="pixel", normalize_target=False, mask_ratio=0.6)
    return config


def mae(config, **partial):
    """The same config with MAE; keywords are those of partial reconstruction."""
    config.method.update(name="mae", target="pixel")
    config.method.partial.update(partial)
    return config


def mixmim(config, name="mixmim_b"):
    """The same config with MixMIM over a tiny backbone at 64 pixels."""
    config.data.image_size = (64, 64)
    config.method.update(name="mixmim", target="pixel", block_size=32, mask_ratio=0.5, groups=8)
    config.method.backbone.update({**HIERARCHICAL, "name": name, "width": 16})
    config.method.decoder.epsilon = 1e-5
    return config


def config(data="sample", **schedule):
    """A config that trains in seconds: 32-px images, a ViT 32 wide, batches of 16."""
    config = pretrain_config()
    config.data.update(path=str(data), image_size=(32, 32), eval_records=16)
    config.method.backbone.update(name="vit_ti8", width=32, depth=2, heads=2)
    config.method.decoder.update(width=32, depth=1)
    config.method.update(dtype="float32", block_size=8)
    config.schedule.update(batch_size=16, steps=8, warmup_epochs=0.1)
    config.schedule.update(**schedule)
    config.optimizer.base_lr = 1.6e-2  # 1e-3 for 16 images
    config.run.update(log_every=1, picture_every=0, checkpoint_every=3, workers=0, threads=2)
    return config


def tuning(data="sample", init="", **schedule):
    """A config that fine-tunes in seconds: as `config`, with all augmentation, drop path and averages.

    init: what to start from, which then says the backbone.
    """
    config = finetune_config()
    config.data.update(path=str(data), image_size=(32, 32), eval_resize=36)
    config.init = str(init)
    if not init:
        config.model.backbone.update(name="vit_ti8", width=32, depth=2, heads=2, positions="learned")
    config.optimizer.ema_decay = 0.9
    config.model.dtype = "float32"
    config.schedule.update(batch_size=16, steps=8, warmup_epochs=0.1)
    config.schedule.update(**schedule)
    config.optimizer.base_lr = 1.6e-2  # 1e-3 for 16 images
    config.run.update(log_every=1, checkpoint_every=3, eval_epochs=0.7, workers=0, threads=2)
    return config


def segmenting(data="", init="", **schedule):
    """A config that trains a segmentation in seconds: a tiny ViT and semantic FPN on crops of 32 px.

    init: what to start from, which then says the backbone.
    """
    config = segment_config()
    config.data.update(path=str(data), image_size=(32, 32), scale=(0.9, 1.3), max_class_share=1.0)
    config.data.photometric_distortion = 0.2  # weak: few updates
    config.init = str(init)
    if not init:
        config.model.backbone.update(name="vit_ti8", width=32, depth=2, heads=2, positions="learned")
    config.model.backbone.drop_path = 0.0
    config.model.head.update(name="fpn", channels=16, auxiliary_channels=8)
    config.model.dtype = "float32"
    config.optimizer.base_lr = 1.28  # 4e-2 for 8 images: few updates
    config.schedule.update(batch_size=8, steps=6, warmup_epochs=0.5)
    config.schedule.update(**schedule)
    config.run.update(log_every=1, checkpoint_every=2, eval_epochs=1.5, pictures=2, workers=0, threads=2)
    return config


def write_images(folder, count, seed=0, prefix=""):
    """Noise, one PNG each, brighter from seed to seed."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = random.integers(20 * seed, 130 + 20 * seed, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{index:03}.png")


def write_classes(folder, **splits):
    """A labelled data set of classes that differ in brightness -> the folder.

    splits: {"train": (images of class0, ...), ...}; by default 12 and 5 of each of four classes.
    """
    for split, counts in (splits or {"train": (12,) * 4, "val": (5,) * 4}).items():
        for label, count in enumerate(counts):
            write_images(folder / split / f"class{label}", count, seed=label, prefix=split)
    return folder


HIERARCHICAL = dict(depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), width=None, depth=None)
WIDTHS = dict(widths=(8, 16, 16, 32))
TINY = {
    "swin": dict(HIERARCHICAL, name="swin_t", width=16, depths=(1, 2, 1, 1)),
    "pvt_v2": dict(HIERARCHICAL, name="pvt_v2_b2", mlp_ratios=(2, 2, 2, 2), **WIDTHS),
    "cmt": dict(HIERARCHICAL, name="cmt_s", mlp_ratio=2.0, **WIDTHS),
    "convnext": dict(HIERARCHICAL, name="convnext_t", heads=None, **WIDTHS),
}


def over(family, config):
    """The same config over a tiny hierarchical backbone at 64 pixels."""
    config.data.image_size = (64, 64)
    config.method.block_size = 32
    config.method.backbone.update(**TINY[family])
    config.method.decoder.epsilon = 1e-5
    return config


def variables_of(module, *args, seed=0):
    """Random variables of a module, of which `init` is traced but not compiled; args: of `init`.

    Factors and variances are about 1, all others about 0.
    """
    random = np.random.default_rng(seed)

    def fill(path, leaf):
        center = path[-1].key in ("scale", "var")
        return (center + random.uniform(-0.1, 0.1, leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(module.init, *args))


def forward_and_gradients(method, params, images, noise):
    """-> (Output, the gradients of its loss), in one compiled program."""

    @jax.jit
    def run(params, images):
        def loss(params):
            out = method.apply({"params": params}, images, noise=noise)
            return out.loss, out

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, out), grads = run(params, images)
    return out, grads
