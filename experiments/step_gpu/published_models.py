"""The published models, built from a checkout of their authors' code, which is not part of this package.

`shim` supplies what the code imports and what today's timm, NumPy or a machine without a GPU lack.
"""

import functools
import importlib
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn as nn


def shim(device):
    """Make the imports of the published code work with the installed timm and NumPy."""
    from timm.layers import DropPath, to_2tuple, trunc_normal_
    from timm.models import vision_transformer

    np.float = float  # removed in NumPy 1.24
    layers = dict(DropPath=DropPath, to_2tuple=to_2tuple, trunc_normal_=trunc_normal_)
    _module("timm.models.layers", **layers)
    _module("timm.models.registry", register_model=lambda function: function)
    _module(
        "timm.models.swin_transformer",
        PatchMerging=PatchMerging,
        window_partition=window_partition,
        window_reverse=window_reverse,
    )
    if not hasattr(vision_transformer.Block, "without_qk_scale"):
        vision_transformer.Block = _without_qk_scale(vision_transformer.Block)
    vision_transformer.DropPath = DropPath
    try:
        import einops  # noqa: F401
    except ImportError:  # FastMIM imports it and does not use it
        _module("einops", rearrange=None)
    if device.type == "cpu":
        nn.Module.cuda = lambda module, *_: module
        torch.Tensor.norm = _float32_norm


_NORM = torch.Tensor.norm


def _float32_norm(tensor, *args, **options):
    """Compute a norm in float32, as autocast does on a GPU and not on a CPU; HOG relies on it."""
    return _NORM(tensor.float(), *args, **options)


def _module(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _without_qk_scale(block):
    """Return timm's transformer block with the argument `qk_scale`, which it no longer has."""

    @functools.wraps(block, updated=())
    def build(*args, qk_scale=None, **options):
        return block(*args, **options)

    build.without_qk_scale = True
    return build


class PatchMerging(nn.Module):
    """Patch merging with the interface of timm 0.3.2: tokens (B, h * w, C) -> (B, h * w / 4, 2 C)."""

    def __init__(self, input_resolution, dim, norm_layer=nn.LayerNorm):
        super().__init__()
        self.input_resolution = input_resolution
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x):
        """Merge 2 x 2 tokens."""
        (height, width), batch = self.input_resolution, x.shape[0]
        x = x.view(batch, height, width, -1)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1).flatten(1, 2)))


def window_partition(x, window):
    """Return the windows (B * windows, window, window, C) of a grid (B, h, w, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window, window, channels)


def window_reverse(windows, window, height, width):
    """Return the grid (B, h, w, C) of windows."""
    x = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, windows.shape[-1])


def _fastmim_vit(pixels, tiny):
    module = importlib.import_module("mim_vit_pretrain")
    options = dict(
        img_size=pixels,
        block_size=16,
        norm_pix_loss=True,
        mim_loss="HOG",
        decoder_embed_dim=256,
        decoder_depth=1,
    )
    if not tiny:
        return module.mim_vit_base(**options)
    options.update(patch_size=16, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32)
    return module.MaskedAutoencoderViT(**options)


def _fastmim_swin(pixels, tiny):
    module = importlib.import_module("mim_swin_pretrain")
    options = dict(
        img_size=pixels,
        block_size=32,
        norm_pix_loss=True,
        mim_loss="HOG",
        decoder_embed_dim=256,
        decoder_depth=4,
    )
    if not tiny:
        return module.mim_swin_base(window_size=pixels // 32, depths=(2, 2, 18, 2), **options)
    options.update(patch_size=32, embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=2)
    return module.PretrainSwin(qkv_bias=True, **options)


def _mae(pixels, tiny):
    module = importlib.import_module("models_mae")
    if not tiny:
        return module.mae_vit_base_patch16(img_size=pixels, norm_pix_loss=True)
    options = dict(
        embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1
    )
    return module.MaskedAutoencoderViT(img_size=pixels, patch_size=16, norm_pix_loss=True, **options)


def _mixmim(pixels, tiny):
    module = importlib.import_module("models_mixmim")
    options = {}
    if tiny:
        options = dict(embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], decoder_dim=32)
        options.update(decoder_depth=1, decoder_num_heads=1, window_size=[4, 4, 4, 2])
    return module.mixmim_base(img_size=pixels, norm_pix_loss=True, **options)


def _simmim(kind, pixels, tiny):
    """Build SimMIM as the published YAML files of the 800-epoch recipes do."""
    module = importlib.import_module("models.simmim")
    swin = SimpleNamespace(
        PATCH_SIZE=4, IN_CHANS=3, EMBED_DIM=128, DEPTHS=[2, 2, 18, 2], NUM_HEADS=[4, 8, 16, 32]
    )
    swin.__dict__.update(WINDOW_SIZE=pixels // 32, MLP_RATIO=4.0, QKV_BIAS=True, QK_SCALE=None, APE=False)
    swin.PATCH_NORM = True
    vit = SimpleNamespace(PATCH_SIZE=16, IN_CHANS=3, EMBED_DIM=768, DEPTH=12, NUM_HEADS=12, MLP_RATIO=4)
    vit.__dict__.update(QKV_BIAS=True, INIT_VALUES=0.1, USE_APE=False, USE_RPB=False, USE_SHARED_RPB=True)
    vit.USE_MEAN_POOLING = False
    if tiny:
        swin.__dict__.update(EMBED_DIM=32, DEPTHS=[1, 1, 1, 1], NUM_HEADS=[1, 2, 4, 8])
        vit.__dict__.update(EMBED_DIM=32, DEPTH=1, NUM_HEADS=2)
    model = SimpleNamespace(TYPE=kind, SWIN=swin, VIT=vit, DROP_RATE=0.0)
    model.DROP_PATH_RATE = 0.1 if kind == "vit" else 0.0
    config = SimpleNamespace(MODEL=model, DATA=SimpleNamespace(IMG_SIZE=pixels))
    config.TRAIN = SimpleNamespace(USE_CHECKPOINT=False)
    return module.build_simmim(config)


def simmim_masks(batch, pixels, patch, device):
    """Return masks (B, h, w) of patches: 60 % of the 32-px blocks, as the published loader draws them."""
    cells = pixels // 32
    order = torch.rand(batch, cells**2, device=device).argsort(1)
    blocks = (order < -(-6 * cells**2 // 10)).long().view(batch, cells, cells)
    return blocks.repeat_interleave(32 // patch, 1).repeat_interleave(32 // patch, 2)


BUILDERS = {  # case: function (pixels, tiny) -> model
    "fastmim_vit_b16": _fastmim_vit,
    "fastmim_swin_b": _fastmim_swin,
    "mae_vit_b16": _mae,
    "mixmim_b": _mixmim,
    "simmim_vit_b16": functools.partial(_simmim, "vit"),
    "simmim_swin_b": functools.partial(_simmim, "swin"),
}
MASK_RATIO = {"FastMIM": 0.75, "mae": 0.75, "MixMIM": 0.5}


def build(name, repository, folder, pixels, batch, device, tiny):
    """Return a published model, in CPU memory, and the function (model, images) -> loss.

    Args:
      name: of the case.
      repository: folder of the published code in `folder`.
      folder: with one checkout per repository.
      pixels: side of the images.
      batch: images in a step.
      device: on which it will run.
      tiny: whether to build the model of the tiny run.
    """
    shim(device)
    sys.path.insert(0, str(Path(folder) / repository))
    model = BUILDERS[name](pixels, tiny).train()
    if repository == "SimMIM":
        masks = simmim_masks(batch, pixels, model.patch_size, device)
        return model, lambda model, images: model(images, masks)
    ratio = MASK_RATIO[repository]
    return model, lambda model, images: model(images, mask_ratio=ratio)[0]
