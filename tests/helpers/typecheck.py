"""Check annotations at run time: shapes and dtypes by jaxtyping, all other types by beartype.

Under `jit` a call is checked when it is traced, once per compilation.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PACKAGES = ["fastmim_jax.models", "fastmim_jax.mim"]

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def install():
    """Check every annotated function and Flax module of PACKAGES; call it before they are imported."""
    install_import_hook(PACKAGES, "helpers.typecheck.checked")
