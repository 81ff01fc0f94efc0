"""Checks of targets at several scales, and of the layers of LocalMIM that predict them."""

import math

from ml_collections import ConfigDict

from fastmim_jax.errors import UserError
from fastmim_jax.models.base import Backbone
from fastmim_jax.validate.backbone import fitting_size
from fastmim_jax.validate.names import Stage, count, flag

LOCAL, SCALES = "method.local_layers", "method.target_scales"


def check_multi_scale(stage: Stage, encoder: Backbone) -> None:
    """Check the scales of the target, and of LocalMIM their layers.

    Raises:
      UserError: scales that do not fit tokens or images, or layers that cannot predict them.
    """
    method = stage.config.method
    if method.name == "localmim":
        _check_layers(method, encoder)
    elif method.local_layers:
        raise UserError(
            f"config.{LOCAL} is {tuple(method.local_layers)}, but {method.name} predicts from its last "
            f"layer: type {flag(LOCAL, ())}, or --config.method.name=localmim"
        )
    if method.target_scales:
        _check_scales(stage, encoder)
    if method.name == "localmim":
        for number, size in zip(method.local_layers, method.target_scales, strict=True):
            _check_decoder(method, encoder, number, size)


def _check_scales(stage: Stage, encoder: Backbone) -> None:
    """Squares and tokens divide one another and the image, and some squares lie in a token."""
    method, size = stage.config.method, stage.config.data.image_size
    scales, name = tuple(method.target_scales), stage.name(SCALES)
    if method.name == "simmim":
        raise UserError(
            f"{name} is {scales}, but SimMIM's absolute error would give scales other weights: type "
            f"{flag(SCALES, ())}, or another --config.method.name"
        )
    block = method.block_size
    token = block if method.name == "localmim" else min(block, encoder.stride)
    fitting = tuple(dict.fromkeys(_fitting_scale(scale, token) for scale in scales))
    if fitting != scales and set(fitting) != set(scales):
        raise UserError(
            f"{name} is {scales}, expected divisors and multiples of the tokens' {token} pixels: type "
            f"{flag(SCALES, fitting)}"
        )
    if min(scales) > token:
        raise UserError(
            f"{name} is {scales}, but a scale of at most the tokens' {token} pixels is needed: type "
            f"{flag(SCALES, (token, *scales))}"
        )
    step = math.lcm(max(scales), block, encoder.stride)
    if any(side % step for side in size):
        raise UserError(
            f"{stage.name('data.image_size')} is {size[0]}x{size[1]}, which cannot be cut into squares of "
            f"{max(scales)} pixels: {stage.typed('data.image_size', fitting_size(size, step))} or another "
            f"--config.{SCALES}"
        )


def _fitting_scale(scale: int, token: int) -> int:
    """Return the divisor, at least 2, or multiple of a token's side that is nearest below a scale."""
    if scale >= token:
        return scale // token * token
    return next((divisor for divisor in range(scale, 1, -1) if token % divisor == 0), token)


def _check_layers(method: ConfigDict, encoder: Backbone) -> None:
    layers, scales, names = tuple(method.local_layers), tuple(method.target_scales), encoder.layer_names
    usual, usual_scales = usual_layers(encoder)
    typed = f"type {flag(LOCAL, usual)} {flag(SCALES, usual_scales)}"
    if not layers:
        raise UserError(f"config.{LOCAL} is (), but LocalMIM predicts from several layers: {typed}")
    if list(layers) != sorted(set(layers)) or layers[-1] != len(names):
        fitting = tuple(sorted({*(number for number in layers if number < len(names)), len(names)}))
        raise UserError(
            f"config.{LOCAL} is {layers}, expected ascending numbers of {method.backbone.name}'s layers "
            f"that end with the last one, {len(names)} ({names[-1]}): "
            + (f"type {flag(LOCAL, fitting)}" if len(fitting) == len(scales) else typed)
        )
    if len(layers) != len(scales):
        raise UserError(
            f"config.{LOCAL} has {count(len(layers), 'layer')} and config.{SCALES} "
            f"{count(len(scales), 'scale')}, expected one scale for each layer: {typed}"
        )
    if method.partial.throw_ratio:
        raise UserError(
            f"config.method.partial.throw_ratio is {method.partial.throw_ratio}, but LocalMIM's decoders "
            "decode all tokens: type --config.method.partial.throw_ratio=0, or another --config.method.name"
        )


def _check_decoder(method: ConfigDict, encoder: Backbone, number: int, size: int) -> None:
    """A layer's tokens double to finer squares, or are averaged to larger ones."""
    stride, width = encoder.layer_strides[number - 1], method.decoder.width
    name = encoder.layer_names[number - 1]
    cells = stride // size
    if size % stride and (stride % size or cells & (cells - 1)):
        raise UserError(
            f"config.{SCALES} has {size} for {name}, whose tokens are {stride} pixels wide: expected a "
            f"multiple of them, or a half, a quarter ...: type {_with_scale(method, number, stride)}"
        )
    if cells > 1 and width % cells and method.decoder.depth:
        raise UserError(
            f"config.method.decoder.width is {width}, which cannot be halved for squares of {size} pixels "
            f"in the tokens of {name}: type "
            + flag("method.decoder.width", max(1, round(width / cells)) * cells)
        )


def _with_scale(method: ConfigDict, number: int, size: int) -> str:
    scales = list(method.target_scales)
    scales[tuple(method.local_layers).index(number)] = size
    return flag(SCALES, tuple(scales))


def usual_layers(encoder: Backbone) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return layers as published, and a scale for each: twice as coarse from one to the next."""
    last, stages = len(encoder.layer_names), len(encoder.stage_widths)
    layers = tuple(sorted({number for number in (2, 4, last - 2, last) if 0 < number <= last}))
    if stages > 1:
        layers = tuple(range(2, last + 1))
    coarsest = encoder.stride if stages > 1 else 2 * encoder.stride
    halves = [coarsest // 2**k for k in range(len(layers)) if coarsest % 2**k == 0 and coarsest // 2**k > 1]
    halves += halves[-1:] * (len(layers) - len(halves))
    return layers, tuple(reversed(halves))
