"""Checks of a pre-training config: the method, its masks, its decoder and its stages."""

import math
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.build import create_method
from fastmim_jax.errors import UserError
from fastmim_jax.mim.method import Method
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.decoder import HEAD_WIDTH
from fastmim_jax.stages import stage_count, stage_lengths
from fastmim_jax.validate.backbone import (
    check_backbone,
    check_kernel,
    check_sincos_width,
    check_windows,
    fitting_size,
)
from fastmim_jax.validate.multi_scale import check_multi_scale
from fastmim_jax.validate.names import Stage, count, flag, stage_of
from fastmim_jax.validate.training import (
    check_batch,
    check_gradient_dtype,
    check_mixing_groups,
    check_start_epochs,
)
from fastmim_jax.validate.values import check_values


def check_pretraining(config: ConfigDict, *, platform: str, devices: int) -> None:
    """Check a config of pre-training, all its stages; nothing is compiled.

    Args:
      config: of the run.
      platform: of the devices, such as "gpu".
      devices: over all processes.

    Raises:
      UserError: a key that cannot work, with what to type.
    """
    check_values(config)
    check_kernel("method", config.method, platform)
    _check_stage_lengths(config)
    for index in range(stage_count(config)):
        _check_stage(stage_of(config, index), devices)


def _check_stage_lengths(config: ConfigDict) -> None:
    lengths = stage_lengths(config)
    if len(set(lengths.values())) > 1:
        seen = ", ".join(f"config.stages.{key} has {length}" for key, length in lengths.items())
        raise UserError(
            f"{seen} entries: give every tuple of --config.stages.{next(iter(lengths))} and the others one "
            "entry per stage, or ()"
        )
    check_start_epochs(config.stages.start_epochs, config.schedule.epochs, stage_count(config))


def _check_stage(stage: Stage, devices: int) -> None:
    check_batch(stage, devices)
    check_gradient_dtype(stage.config, "method")
    encoder = check_backbone(stage, "method")
    _check_cells(stage, encoder)
    _check_fusion(stage.config.method, encoder)
    check_multi_scale(stage, encoder)
    if stage.config.method.name == "crossmae":
        _check_cross_decoder(stage.config.method)
    method = create_method(stage.config.method)
    _check_blocks(stage, encoder, method.target.unit)
    check_windows(stage, "method", encoder)
    if stage.config.method.name == "mixmim":
        check_mixing_groups(stage, method.groups)
    blocks = _check_mask_ratio(stage, method)
    _check_views(stage, method, blocks)
    if stage.config.method.name != "simmim":
        _check_decoder(stage.config.method, encoder)
        _check_throw_ratio(stage, method, blocks)


def _check_cells(stage: Stage, encoder: Backbone) -> None:
    """The backbone and the block size that a method needs."""
    method = stage.config.method
    partial = bool(method.partial.throw_ratio)
    if method.name in ("mae", "crossmae"):
        name = {"mae": "MAE", "crossmae": "CrossMAE"}[method.name]
        if not encoder.supports_token_dropping:
            raise UserError(
                f"config.method.backbone.name is '{method.backbone.name}', but {name} encodes visible "
                "tokens alone: type --config.method.backbone.name=vit_b16 without relative_positions, or "
                "another --config.method.name"
            )
        _check_equal(stage, encoder.stride, f"{name} masks")
    if method.name == "localmim" and encoder.supports_token_dropping:
        _check_equal(stage, encoder.stride, "LocalMIM masks")
    if method.name == "mixmim":
        if not encoder.supports_groups:
            raise UserError(
                f"config.method.backbone.name is '{method.backbone.name}', which cannot separate the two "
                "images of a mixture: type --config.method.backbone.name=mixmim_b, or a Swin"
            )
        _check_equal(stage, encoder.stride, "MixMIM mixes")
    if method.name == "fastmim" and partial and method.block_size < encoder.stride:
        _check_equal(stage, encoder.stride, "partial reconstruction throws")
    if method.name == "simmim":
        if method.block_size % encoder.embed_stride:
            raise UserError(
                f"{stage.name('method.block_size')} is {method.block_size}, but SimMIM masks cells of "
                f"{encoder.embed_stride} pixels: {stage.typed('method.block_size', encoder.stride)}"
            )
        if partial:
            raise UserError(
                f"config.method.partial.throw_ratio is {method.partial.throw_ratio}, but SimMIM has no "
                "decoder: type --config.method.partial.throw_ratio=0, or another --config.method.name"
            )
    if partial and not method.decoder.depth:
        raise UserError(
            "config.method.decoder.depth is 0, which leaves partial reconstruction nothing to save: type "
            "--config.method.decoder.depth=1 or --config.method.partial.throw_ratio=0"
        )


def _check_cross_decoder(method: ConfigDict) -> None:
    """CrossMAE's decoder has blocks, and leaves thrown tokens out of the loss."""
    partial = method.partial
    if not method.decoder.depth:
        raise UserError(
            "config.method.decoder.depth is 0, but only the blocks of CrossMAE's decoder see the encoder: "
            "type --config.method.decoder.depth=12"
        )
    if partial.throw_ratio and (partial.sampler, partial.fill) != ("random", "none"):
        raise UserError(
            f"config.method.partial has sampler '{partial.sampler}' and fill '{partial.fill}', but "
            "CrossMAE decodes random tokens and fills in none: type --config.method.partial.sampler=random "
            "--config.method.partial.fill=none"
        )


def _check_fusion(method: ConfigDict, encoder: Backbone) -> None:
    """Fused layers are blocks of one grid, in order, and end with the last one."""
    layers, depth = tuple(method.fuse_layers), encoder.num_blocks
    if not layers:
        return
    if method.name in ("crossmae", "localmim", "mixmim") or not encoder.has_one_grid:
        raise UserError(
            f"config.method.fuse_layers is {layers}, but {method.name} over {method.backbone.name} has no "
            "layers of one grid to fuse before its decoder: type --config.method.fuse_layers='()', or "
            "FastMIM, MAE or SimMIM over a ViT"
        )
    if list(layers) != sorted(set(layers)) or layers[-1] != depth:
        fitting = tuple(sorted({*(n for n in layers if n < depth), depth}))
        raise UserError(
            f"config.method.fuse_layers is {layers}, expected ascending numbers of blocks that end with "
            f"the last one, {depth}: type {flag('method.fuse_layers', fitting)}"
        )


def _check_equal(stage: Stage, stride: int, verb: str) -> None:
    block = stage.config.method.block_size
    if block != stride:
        raise UserError(
            f"{stage.name('method.block_size')} is {block}, but {verb} cells of {stride} pixels: "
            + stage.typed("method.block_size", stride)
        )


def _check_blocks(stage: Stage, encoder: Backbone, unit: int) -> None:
    """Blocks, tokens and units of the target (HOG cells) divide one another and the image."""
    block, stride, size = stage.config.method.block_size, encoder.stride, stage.config.data.image_size
    if (block % stride and stride % block) or min(block, stride) % unit:
        raise UserError(
            f"{stage.name('method.block_size')} is {block} pixels, expected a multiple or a divisor of the "
            f"backbone's {stride} that is a multiple of {unit}: {stage.typed('method.block_size', stride)}"
        )
    step = max(block, stride)
    fitting = fitting_size(size, step)
    if any(side % step for side in size):
        raise UserError(
            f"{stage.name('data.image_size')} is {size[0]}x{size[1]}, which cannot be cut into blocks of "
            f"{block} and tokens of {stride} pixels: {stage.typed('data.image_size', fitting)} "
            "or another --config.method.block_size"
        )


def _check_mask_ratio(stage: Stage, method: Method) -> int:
    """Return the number of blocks of an image."""
    rows, columns = (side // method.block_size for side in stage.config.data.image_size)
    if rows % method.mask_grid or columns % method.mask_grid:
        raise UserError(
            f"config.method.mask_grid is {method.mask_grid}, which does not divide {rows} x {columns} "
            f"blocks: type --config.method.mask_grid={math.gcd(rows, columns, method.mask_grid)}"
        )
    blocks = rows * columns
    masked = method.num_masked(blocks)
    if not masked:
        raise UserError(
            f"config.method.mask_ratio is {method.mask_ratio}, which masks 0 of {count(blocks, 'block')}: "
            "type a larger share such as --config.method.mask_ratio=0.75"
        )
    return blocks


def _check_views(stage: Stage, method: Method, blocks: int) -> None:
    """Views of an image fill batches evenly, and disjoint masks leave enough blocks to all of them."""
    views, batch = stage.config.data.views_per_image, stage.config.schedule.batch_size
    if batch % views:
        raise UserError(
            f"config.data.views_per_image is {views}, which does not divide "
            f"{stage.name('schedule.batch_size')}, {batch}: type "
            f"--config.data.views_per_image={math.gcd(batch, views)}"
        )
    if stage.config.data.views != "masks":
        return
    if stage.config.method.name == "mixmim":
        raise UserError(
            "config.data.views is 'masks', but MixMIM's masks belong to groups of images: type "
            "--config.data.views=crops"
        )
    visible = blocks - method.num_masked(blocks)
    if views * visible > blocks:
        raise UserError(
            f"config.data.views is 'masks', but {views} views with {count(visible, 'visible block')} each "
            f"need more than {count(blocks, 'block')} to be disjoint: type "
            f"--config.data.views_per_image={math.gcd(batch, blocks // visible)}, or a larger "
            "--config.method.mask_ratio"
        )


def _check_decoder(method: ConfigDict, encoder: Backbone) -> None:
    decoder, width = method.decoder, method.decoder.width
    heads = decoder.heads or max(width // HEAD_WIDTH, 1)
    if decoder.depth and width % heads:
        raise UserError(
            f"config.method.decoder.width is {width}, which {count(heads, 'head')} do not divide: type "
            f"{flag('method.decoder.width', max(1, round(width / heads)) * heads)} or another "
            "--config.method.decoder.heads"
        )
    local = method.name == "localmim" and encoder.supports_token_dropping
    if (
        method.name in ("mae", "crossmae", "mixmim")
        or local
        or (method.partial.throw_ratio and method.partial.fill == "progressive")
    ):
        if decoder.depth:
            check_sincos_width(width, "method.decoder.width")
        else:
            check_sincos_width(encoder.stage_widths[-1], "method.backbone.width")


def _check_throw_ratio(stage: Stage, method: Any, blocks: int) -> None:
    """At least one masked token of every image is decoded."""
    partial, masked = stage.config.method.partial, method.num_masked(blocks)
    finer = max(method.block_size // method.encoder.stride, 1) ** 2  # tokens of a block
    tokens = blocks * finer
    counts = (blocks - masked, masked) if stage.config.method.name == "mixmim" else (masked * finer,)
    thrown = 0
    if partial.throw_ratio and stage.config.method.name == "crossmae":
        thrown = method.num_thrown(tokens)
    elif partial.throw_ratio:
        thrown = method.reconstruct.num_thrown(tokens, counts)
    if partial.throw_ratio and thrown >= min(counts):
        fitting = int(100 * len(counts) * (min(counts) - 1) / tokens) / 100
        raise UserError(
            f"config.method.partial.throw_ratio is {partial.throw_ratio}, which throws {thrown} of "
            f"{count(min(counts), 'masked token')} and leaves none to decode: type at most "
            f"--config.method.partial.throw_ratio={max(fitting, 0)}"
        )
