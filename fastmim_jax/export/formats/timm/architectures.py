"""timm's model classes for our backbones, and the named models of each class."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from fastmim_jax.errors import UserError
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin, choose_window
from fastmim_jax.models.vit import ViT

Arguments = dict[str, Any]
Size = tuple[int, int]


class Family(NamedTuple):
    """One of timm's model classes.

    name: its name in messages. format_name: a key of `formats.FORMATS`.
    arguments: (encoder, (height, width)) -> arguments of the class for the same backbone.
    num_features: encoder -> width of its last stage.
    defaults: of the arguments of the class.
    architectures: name of a model -> its other arguments.
    poolings: key of `heads.POOLINGS`, or None for a bare backbone -> arguments of the class.
    first_conv, classifier: names of the modules.
    fixed_size: whether a model takes images of one size only.
    """

    name: str
    format_name: str
    arguments: Callable[[nn.Module, Size], Arguments]
    num_features: Callable[[nn.Module], int]
    defaults: Mapping[str, Any]
    architectures: Mapping[str, Arguments]
    poolings: Mapping[str | None, Arguments]
    first_conv: str = "patch_embed.proj"
    classifier: str = "head"
    fixed_size: bool = True


def _vit(encoder: nn.Module, size: Size) -> Arguments:
    # With init_values=0 timm leaves the factors out; they are loaded, so any other number serves.
    scale = encoder.layer_scale if encoder.layer_scale is None else encoder.layer_scale or 1e-6
    return dict(
        _vit_sizes(encoder, size),
        pos_embed="none" if encoder.positions == "none" else "learn",
        class_token=encoder.class_token,
        init_values=scale,
    )


def _beit(encoder: nn.Module, size: Size) -> Arguments:
    # None means the named model's own default; with 0 there are no factors.
    scale = 0.0 if encoder.layer_scale is None else encoder.layer_scale or 1e-6
    return dict(
        _vit_sizes(encoder, size),
        use_abs_pos_emb=encoder.positions != "none",
        use_rel_pos_bias=encoder.relative_positions == "own",
        use_shared_rel_pos_bias=encoder.relative_positions == "shared",
        init_values=scale,
    )


def _vit_sizes(encoder: nn.Module, size: Size) -> Arguments:
    if encoder.class_tokens > 1:
        raise UserError(
            f"timm's ViT has one class token, this one has {encoder.class_tokens}: type --to=hf"
        )
    return dict(
        img_size=_side(size),
        patch_size=encoder.patch_size,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
    )


def _swin(encoder: nn.Module, size: Size) -> Arguments:
    if encoder.positions != "none":
        raise UserError(
            f"timm's Swin has no position embeddings, this one has {encoder.positions} ones: "
            "type --to=official"
        )
    window = encoder.window or tuple(choose_window(side // encoder.stride) for side in size)
    return dict(
        img_size=_side(size),
        embed_dim=encoder.width,
        depths=encoder.depths,
        num_heads=encoder.heads,
        window_size=window if isinstance(window, int) else _side(window),
        mlp_ratio=encoder.mlp_ratio,
    )


def _pvt_v2(encoder: nn.Module, size: Size) -> Arguments:
    return dict(
        embed_dims=encoder.widths,
        depths=encoder.depths,
        num_heads=encoder.heads,
        mlp_ratios=encoder.mlp_ratios,
        linear=encoder.attention == "pooled",
    )


def _convnext(encoder: nn.Module, size: Size) -> Arguments:
    return dict(
        dims=encoder.widths,
        depths=encoder.depths,
        ls_init_value=encoder.layer_scale,
        norm_eps=encoder.epsilon,
    )


def _side(size: Size) -> int | Size:
    """(h, w) -> one number if they are equal."""
    return size[0] if size[0] == size[1] else (size[0], size[1])


def _vit_architectures(
    prefix: str, sizes: list[tuple[str, int]], **others: Mapping[str, float]
) -> dict[str, Arguments]:
    widths = dict(base=768, tiny=192, small=384, large=1024, huge=1280)
    depths, heads = dict(large=24, huge=32), dict(tiny=3, small=6, large=16, huge=16)
    return {
        f"{prefix}_{size}_patch{patch}_224": dict(
            patch_size=patch,
            embed_dim=widths[size],
            depth=depths.get(size, 12),
            num_heads=heads.get(size, 12),
            **{name: values[size] for name, values in others.items()},
        )
        for size, patch in sizes
    }


def _swin_architecture(width: int, third_depth: int, heads: int, window: int, side: int) -> Arguments:
    return dict(
        embed_dim=width,
        depths=(2, 2, third_depth, 2),
        num_heads=tuple(heads * 2**stage for stage in range(4)),
        window_size=window,
        img_size=side,
    )


def _pvt_v2_architecture(
    depths: tuple, widths: tuple = (64, 128, 320, 512), ratios: tuple = (8, 8, 4, 4), linear: bool = False
) -> Arguments:
    return dict(depths=depths, embed_dims=widths, mlp_ratios=ratios, linear=linear)


def _convnext_architecture(width: int, third_depth: int) -> Arguments:
    return dict(dims=tuple(width * 2**stage for stage in range(4)), depths=(3, 3, third_depth, 3))


_MEAN = dict(global_pool="avg")
_VIT_DEFAULTS = dict(img_size=224, mlp_ratio=4.0)
VIT = Family(
    name="ViT",
    format_name="timm_vit",
    arguments=_vit,
    num_features=lambda encoder: encoder.width,
    defaults=dict(
        _VIT_DEFAULTS,
        pos_embed="learn",
        init_values=None,
        global_pool="token",
        fc_norm=None,
        class_token=True,
    ),
    architectures=_vit_architectures(
        "vit",
        [(size, 16) for size in ("base", "tiny", "small", "large")]
        + [("base", 8), ("small", 8), ("large", 14), ("huge", 14)],
    ),
    # The mean leaves the cls token out; the norm follows it, or with fc_norm=False precedes it.
    poolings={None: {}, "cls": {}, "pool_norm": _MEAN, "pool": dict(_MEAN, fc_norm=False)},
)
BEIT = VIT._replace(
    name="BEiT",
    format_name="timm_beit",
    arguments=_beit,
    defaults=dict(
        _VIT_DEFAULTS,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
        global_pool="avg",
        use_fc_norm=None,
    ),
    architectures=_vit_architectures(
        "beit", [("base", 16), ("large", 16)], init_values=dict(base=0.1, large=1e-5)
    ),
    poolings={
        None: dict(global_pool="token"),
        "cls": dict(global_pool="token"),
        "pool_norm": {},
        "pool": dict(use_fc_norm=False),
    },
)
SWIN = Family(
    name="Swin",
    format_name="timm_swin",
    arguments=_swin,
    num_features=lambda encoder: encoder.width * 8,
    defaults=dict(mlp_ratio=4.0, global_pool="avg"),
    architectures={
        "swin_tiny_patch4_window7_224": _swin_architecture(96, 6, 3, 7, 224),
        "swin_small_patch4_window7_224": _swin_architecture(96, 18, 3, 7, 224),
        "swin_base_patch4_window7_224": _swin_architecture(128, 18, 4, 7, 224),
        "swin_large_patch4_window7_224": _swin_architecture(192, 18, 6, 7, 224),
        "swin_base_patch4_window12_384": _swin_architecture(128, 18, 4, 12, 384),
        "swin_large_patch4_window12_384": _swin_architecture(192, 18, 6, 12, 384),
    },
    poolings={None: {}, "pool": {}, "norm_pool": {}},
    classifier="head.fc",
)
PVT_V2 = Family(
    name="PVT v2",
    format_name="timm_pvt_v2",
    arguments=_pvt_v2,
    num_features=lambda encoder: encoder.widths[-1],
    defaults=dict(num_heads=(1, 2, 5, 8), global_pool="avg"),
    architectures={
        "pvt_v2_b2": _pvt_v2_architecture((3, 4, 6, 3)),
        "pvt_v2_b0": _pvt_v2_architecture((2, 2, 2, 2), widths=(32, 64, 160, 256)),
        "pvt_v2_b1": _pvt_v2_architecture((2, 2, 2, 2)),
        "pvt_v2_b3": _pvt_v2_architecture((3, 4, 18, 3)),
        "pvt_v2_b4": _pvt_v2_architecture((3, 8, 27, 3)),
        "pvt_v2_b5": _pvt_v2_architecture((3, 6, 40, 3), ratios=(4, 4, 4, 4)),
        "pvt_v2_b2_li": _pvt_v2_architecture((3, 4, 6, 3), linear=True),
    },
    poolings={None: {}, "pool": {}},
    fixed_size=False,
)
_NORM_FIRST = dict(head_norm_first=True)
CONVNEXT = Family(
    name="ConvNeXt",
    format_name="timm_convnext",
    arguments=_convnext,
    num_features=lambda encoder: encoder.widths[-1],
    defaults=dict(ls_init_value=1e-6, norm_eps=1e-6, head_norm_first=False, global_pool="avg"),
    architectures={
        "convnext_tiny": _convnext_architecture(96, 9),
        "convnext_small": _convnext_architecture(96, 27),
        "convnext_base": _convnext_architecture(128, 27),
        "convnext_large": _convnext_architecture(192, 27),
        "convnext_xlarge": _convnext_architecture(256, 27),
    },
    # timm's default norm follows the mean; the norm of our backbone precedes it. "norm_pool" has a norm of
    # its own before the mean, for which timm has no name.
    poolings={None: _NORM_FIRST, "pool_norm": {}, "pool": _NORM_FIRST},
    first_conv="stem.0",
    classifier="head.fc",
    fixed_size=False,
)
FAMILIES = {ViT: VIT, Swin: SWIN, PVTv2: PVT_V2, ConvNeXt: CONVNEXT}


def find_family(encoder: nn.Module) -> Family:
    """Return timm's Family of a backbone.

    Raises:
      UserError: timm has no such backbone.
    """
    if type(encoder) is ViT and encoder.relative_positions != "none":
        return BEIT
    if type(encoder) not in FAMILIES:
        raise UserError(
            f"timm has no {type(encoder).__name__}, only {', '.join(x.name for x in FAMILIES.values())}: "
            "type --to=official"
        )
    return FAMILIES[type(encoder)]
