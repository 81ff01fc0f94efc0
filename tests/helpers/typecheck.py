"""Check annotations at run time: shapes and dtypes by jaxtyping, all other types by beartype.

Under `jit` a call is checked when it is traced, once per compilation.
"""

import functools

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PACKAGES = ["fastmim_jax.models", "fastmim_jax.mim"]
CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def install():
    """Check every annotated function and Flax module of PACKAGES; call it before they are imported."""
    install_import_hook(PACKAGES, "helpers.typecheck.checked")


def checked(function):
    """Return the function with checks, which are made at its first call: most tests call few functions."""
    with_checks = functools.cache(lambda: CHECK(function))

    @functools.wraps(function)
    def call(*args, **kwargs):
        return with_checks()(*args, **kwargs)

    return call
