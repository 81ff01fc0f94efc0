"""The one table of backbones: name -> constructor and sizes."""

import difflib

from fastmim_jax.errors import UserError
from fastmim_jax.models.cmt import CMT
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.mixmim import MixMIMEncoder
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT

_VIT_SIZES = {
    "ti": dict(width=192, depth=12, heads=3),
    "s": dict(width=384, depth=12, heads=6),
    "b": dict(width=768, depth=12, heads=12),
    "l": dict(width=1024, depth=24, heads=16),
    "h": dict(width=1280, depth=32, heads=16),
}

_SWIN_SIZES = {
    "t": dict(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    "s": dict(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "b": dict(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "l": dict(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
}

_PVT_V2_SIZES = {
    "b0": dict(widths=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "b1": dict(depths=(2, 2, 2, 2)),
    "b2": dict(),
    "b2_linear": dict(attention="pooled"),
    "b3": dict(depths=(3, 4, 18, 3)),
    "b4": dict(depths=(3, 8, 27, 3)),
    "b5": dict(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}

_CMT_SIZES = {
    "ti": dict(stem_width=16, widths=(46, 92, 184, 368), depths=(2, 2, 10, 2), mlp_ratio=3.6),
    "xs": dict(stem_width=16, widths=(52, 104, 208, 416), depths=(3, 3, 12, 3), mlp_ratio=3.77),
    "s": dict(),
    "b": dict(stem_width=38, widths=(76, 152, 304, 608), depths=(4, 4, 20, 4)),
}

_CONVNEXT_SIZES = {
    "t": dict(),
    "s": dict(depths=(3, 3, 27, 3)),
    "b": dict(widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3)),
    "l": dict(widths=(192, 384, 768, 1536), depths=(3, 3, 27, 3)),
}

_MIXMIM_SIZES = {
    "b": _SWIN_SIZES["b"],
    "l": _SWIN_SIZES["l"],
    "h": dict(width=352, depths=(2, 2, 18, 2), heads=(11, 22, 44, 88)),
}

ZOO = {
    **{
        f"vit_{size}{patch}": (ViT, dict(patch_size=patch, **sizes))
        for size, sizes in _VIT_SIZES.items()
        for patch in (4, 8, 14, 16)
    },
    **{f"mixmim_{size}": (MixMIMEncoder, sizes) for size, sizes in _MIXMIM_SIZES.items()},
    **{f"swin_{size}": (Swin, sizes) for size, sizes in _SWIN_SIZES.items()},
    **{f"cmt_{size}": (CMT, sizes) for size, sizes in _CMT_SIZES.items()},
    **{f"convnext_{size}": (ConvNeXt, sizes) for size, sizes in _CONVNEXT_SIZES.items()},
    **{f"pvt_v2_{size}": (PVTv2, sizes) for size, sizes in _PVT_V2_SIZES.items()},
}


def create_model(name, **overrides):
    """A bare backbone, a Flax module.

    Args:
      name: a key of ZOO, such as "vit_b16".
      **overrides: attributes of its class that differ from the table, such as heads=6.

    Raises:
      UserError: unknown name or attribute, or a tuple of another length.
    """
    known = attributes(name)
    for key in overrides:
        if key not in known:
            raise UserError(f"backbone '{name}' has no '{key}': there is {', '.join(sorted(known))}")
    constructor, sizes = ZOO[name]
    usual = {**constructor.__dataclass_fields__, **sizes}
    given = {key: _checked(name, key, x, usual[key]) for key, x in overrides.items()}
    return constructor(**{**sizes, **given})


def _checked(name, key, value, usual):
    """A value as it may be given: lists become tuples, and what has one number per stage keeps them."""
    value = tuple(value) if isinstance(value, list) else value
    usual = getattr(usual, "default", usual)  # of a field that the table leaves alone
    if usual is None:
        return value
    if isinstance(usual, tuple) != isinstance(value, tuple):
        raise UserError(f"'{key}' of backbone '{name}' is {value}, expected something like {usual}")
    if isinstance(usual, tuple) and len(value) != len(usual):
        raise UserError(
            f"'{key}' of backbone '{name}' is {value}, expected {len(usual)} numbers as {usual}"
        )
    return value


def attributes(name):
    """Names of the attributes that a backbone of the table has.

    Raises:
      UserError: unknown name.
    """
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.5) or sorted(ZOO)
        raise UserError(f"unknown backbone '{name}': there is {', '.join(close)}")
    return set(ZOO[name][0].__dataclass_fields__) - {"parent", "name"}
