"""Build methods, backbones, classifiers and image readers, each from its section of a config."""

import os

import jax.numpy as jnp

from fastmim_jax.data.device import channel_statistics
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.data.loader import pick_workers
from fastmim_jax.errors import UserError
from fastmim_jax.mim.fastmim import FastMIM
from fastmim_jax.mim.mae import MAE
from fastmim_jax.mim.mixmim import MixMIM
from fastmim_jax.mim.partial import FILLS, SOURCES, PartialReconstruction, decode_all
from fastmim_jax.mim.sampling import SAMPLERS
from fastmim_jax.mim.simmim import SimMIM
from fastmim_jax.mim.targets import TARGETS
from fastmim_jax.models.heads import POOLINGS, Classifier
from fastmim_jax.models.zoo import backbone_fields, create_model


def create_method(method):
    """A method, a Flax module, from `config.method` (see `fastmim_jax.config`).

    Raises:
      UserError: an unknown name, or parts that do not go together.
    """
    _check_names(method, "method", name=METHODS, target=TARGETS)
    _check_names(method.partial, "method.partial", sampler=SAMPLERS, fill=FILLS, aggregate=SOURCES)
    return METHODS[method.name](method)


def _check_names(section, prefix, **tables):
    for key, table in tables.items():
        if section[key] not in table:
            raise UserError(f"unknown {prefix}.{key} '{section[key]}': there is {', '.join(table)}")


def create_backbone(section):
    """The backbone of `config.method` or `config.model`, a Flax module.

    Raises:
      UserError: an unknown name, or sizes that it does not have.
    """
    given = {key: value for key, value in section.backbone.items() if value is not None}
    name = given.pop("name")
    known = backbone_fields(name)
    computing = dict(_compute(section), layers=section.layers)
    return create_model(name, **{key: x for key, x in computing.items() if key in known}, **given)


def create_classifier(model, classes):
    """A backbone with pooling and head, a Flax module, from `config.model`.

    Raises:
      UserError: an unknown name, or parts that do not go together.
    """
    encoder = create_backbone(model)
    pooling = model.pooling or encoder.pooling
    if pooling not in POOLINGS:
        raise UserError(f"unknown model.pooling '{pooling}': there is {', '.join(POOLINGS)}")
    if pooling == "cls" and not encoder.has_cls_token:
        raise UserError(
            f"'{model.backbone.name}' has no cls token: type --config.model.pooling={encoder.pooling}"
        )
    wide = {"norm_groups": encoder.norm_groups, "width": model.pooling_width}
    options = {key: x for key, x in wide.items() if x is not None} if pooling == "wide_pool" else None
    return Classifier(encoder, classes, pooling, options)


def create_reader(config):
    """Return the ImageReader of `config.data` and `config.run`."""
    data, run = config.data, config.run
    mean, std = channel_statistics(data.channels)
    return ImageReader(
        image_size=tuple(data.image_size),
        channels=data.channels,
        mean=tuple(data.mean) or mean,
        std=tuple(data.std) or std,
        crop_scale=tuple(data.crop_scale),
        crop_ratio=tuple(data.crop_ratio),
        eval_resize=data.get("eval_resize"),
        workers=pick_workers(os.cpu_count() or 1) if run.workers < 0 else run.workers,
        threads=run.threads,
    )


def _compute(section):
    return dict(kernel=section.kernel, dtype=jnp.dtype(section.dtype), remat=section.remat)


def _common(method, encoder):
    """The arguments of every Method."""
    target = TARGETS[method.target](normalize=method.normalize_target)
    return encoder, target, method.block_size, method.mask_ratio


def _decoder(method):
    return dict(method.decoder, layers=method.layers, **_compute(method))


def _reconstruction(method):
    partial = method.partial
    if not partial.throw_ratio:
        return decode_all
    if not 0 < partial.throw_ratio < 1 or partial.stages < 1 or partial.thrown_weight < 0:
        raise UserError(
            f"config.method.partial has throw_ratio {partial.throw_ratio}, stages {partial.stages}, "
            f"thrown_weight {partial.thrown_weight}, expected a share below 1, at least 1 and at least 0: "
            "type --config.method.partial.throw_ratio=0.5"
        )
    if not method.decoder.depth:
        raise UserError(
            "config.method.decoder.depth is 0, which leaves partial reconstruction nothing to save: type "
            "--config.method.decoder.depth=1 or --config.method.partial.throw_ratio=0"
        )
    return PartialReconstruction(**partial)


def _check_cells(method, stride, name):
    if method.block_size != stride:
        raise UserError(
            f"config.method.block_size is {method.block_size}, but {name} cells of {stride} pixels: "
            f"type --config.method.block_size={stride}"
        )


def _fastmim(method):
    encoder, reconstruct = create_backbone(method), _reconstruction(method)
    if method.block_size < encoder.stride and reconstruct is not decode_all:
        _check_cells(method, encoder.stride, "partial reconstruction throws")
    return FastMIM(*_common(method, encoder), _decoder(method), reconstruct)


def _mae(method):
    encoder = create_backbone(method)
    if not encoder.supports_token_dropping:
        raise UserError(
            f"MAE cannot leave tokens out of '{method.backbone.name}': type "
            "--config.method.backbone.name=vit_b16 without relative_positions, or take FastMIM or SimMIM"
        )
    _check_cells(method, encoder.stride, "MAE hides")
    return MAE(*_common(method, encoder), _decoder(method), _reconstruction(method))


def _mixmim(method):
    encoder = create_backbone(method)
    if not encoder.supports_groups:
        raise UserError(
            f"MixMIM cannot keep two images apart in '{method.backbone.name}': type "
            "--config.method.backbone.name=mixmim_b, or a Swin"
        )
    _check_cells(method, encoder.stride, "MixMIM mixes")
    rest = _decoder(method), method.groups, _reconstruction(method)
    return MixMIM(*_common(method, encoder), *rest)


def _simmim(method):
    encoder = create_backbone(method)
    if method.block_size % encoder.embed_stride:
        raise UserError(
            f"config.method.block_size is {method.block_size}, but SimMIM masks cells of "
            f"{encoder.embed_stride} pixels: type --config.method.block_size={encoder.stride}"
        )
    if method.partial.throw_ratio:
        raise UserError(
            "SimMIM has no decoder for partial reconstruction to save on: type "
            "--config.method.partial.throw_ratio=0, or take FastMIM, MAE or MixMIM"
        )
    return SimMIM(*_common(method, encoder))


METHODS = {"fastmim": _fastmim, "mae": _mae, "mixmim": _mixmim, "simmim": _simmim}
