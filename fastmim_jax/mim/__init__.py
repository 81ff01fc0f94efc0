"""Pre-training methods; `create_method` builds one from its section of a config."""

import jax.numpy as jnp

from fastmim_jax.errors import UserError
from fastmim_jax.mim.fastmim import FastMIM
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


def _fastmim(method):
    compute = dict(kernel=method.kernel, dtype=jnp.dtype(method.dtype), remat=method.remat)
    given = {key: value for key, value in method.backbone.items() if value is not None}
    name = given.pop("name")
    known = attributes(name)
    computing = {key: x for key, x in {**compute, "layers": method.layers}.items() if key in known}
    return FastMIM(
        encoder=create_model(name, **computing, **given),
        target=TARGETS[method.target](normalize=method.normalize_target),
        block_size=method.block_size,
        mask_ratio=method.mask_ratio,
        decoder=dict(method.decoder, **compute),
    )


METHODS = {"fastmim": _fastmim}
