"""Pre-training methods; `create_method` builds one from its section of a config."""

import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.mim.fastmim import FastMIM
from fastmim_jax.mim.mixmim import MixMIM
from fastmim_jax.mim.targets import TARGETS
from fastmim_jax.models.zoo import attributes, create_model


def create_method(method):
    """A method, a Flax module, from `config.method` (see `fastmim_jax.config`).

    Raises:
      UserError: unknown method, backbone or target.
    """
    for key, table in (("name", METHODS), ("target", TARGETS)):
        if method[key] not in table:
            raise UserError(f"unknown method.{key} '{method[key]}': there is {', '.join(table)}")
    return METHODS[method.name](method)


def _encoder(method):
    given = {key: value for key, value in method.backbone.items() if value is not None}
    name = given.pop("name")
    known = attributes(name)
    computing = dict(_compute(method), layers=method.layers)
    return create_model(name, **{key: x for key, x in computing.items() if key in known}, **given)


def _compute(method):
    return dict(kernel=method.kernel, dtype=jnp.dtype(method.dtype), remat=method.remat)


def _target(method):
    return TARGETS[method.target](normalize=method.normalize_target)


def _decoder(method):
    return dict(method.decoder, **_compute(method))


def _fastmim(method):
    return FastMIM(
        encoder=_encoder(method),
        target=_target(method),
        block_size=method.block_size,
        mask_ratio=method.mask_ratio,
        decoder=_decoder(method),
    )


def _mixmim(method):
    encoder = _encoder(method)
    if not encoder.separates:
        raise UserError(
            f"MixMIM cannot keep two images apart in '{method.backbone.name}': type "
            "--config.method.backbone.name=mixmim_b, or a Swin"
        )
    if method.block_size != encoder.stride:
        raise UserError(
            f"config.method.block_size is {method.block_size}, but MixMIM mixes cells of {encoder.stride} "
            f"pixels: type --config.method.block_size={encoder.stride}"
        )
    return MixMIM(encoder, _target(method), method.mask_ratio, method.groups, _decoder(method))


METHODS = {"fastmim": _fastmim, "mixmim": _mixmim}
