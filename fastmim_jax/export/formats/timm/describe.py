"""What timm calls a model as our backbone is: the config.json that it opens a folder by."""

import json
from collections.abc import Callable
from typing import NamedTuple

from fastmim_jax.data.device import channel_statistics
from fastmim_jax.errors import UserError
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin, choose_window
from fastmim_jax.models.vit import ViT


class Family(NamedTuple):
    """One of timm's model classes.

    name: of it, for people. format: key of `names.FORMATS`.
    arguments: (encoder, (height, width)) -> those of the class that make it as our encoder is.
    width: encoder -> that of its last stage.
    usual: what the class takes arguments to be. architectures: name of a model -> its other arguments.
    poolings: of ours, None for none -> the arguments that pool so.
    first, last: modules that see the image and that tell the classes.
    sized: whether a model is made for images of one size.
    """

    name: str
    format: str
    arguments: Callable
    width: Callable
    usual: dict
    architectures: dict
    poolings: dict
    first: str = "patch_embed.proj"
    last: str = "head"
    sized: bool = True


def _vit(encoder, size):
    # A scale of 0 would leave the factors out; they are loaded, so any other number serves.
    scale = encoder.layer_scale if encoder.layer_scale is None else encoder.layer_scale or 1e-6
    return dict(
        _vit_sizes(encoder, size),
        pos_embed="none" if encoder.positions == "none" else "learn",
        init_values=scale,
    )


def _beit(encoder, size):
    # None would stand for the model's own; with 0 it has no factors.
    scale = 0.0 if encoder.layer_scale is None else encoder.layer_scale or 1e-6
    return dict(
        _vit_sizes(encoder, size),
        use_abs_pos_emb=encoder.positions != "none",
        use_rel_pos_bias=encoder.relative_positions == "own",
        use_shared_rel_pos_bias=encoder.relative_positions == "shared",
        init_values=scale,
    )


def _vit_sizes(encoder, size):
    return dict(
        img_size=_side(size),
        patch_size=encoder.patch_size,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
    )


def _swin(encoder, size):
    if encoder.positions != "none":
        raise UserError(
            f"timm's Swin adds no positions to its cells, and this one has {encoder.positions} ones: "
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


def _pvt_v2(encoder, size):
    return dict(
        embed_dims=encoder.widths,
        depths=encoder.depths,
        num_heads=encoder.heads,
        mlp_ratios=encoder.mlp_ratios,
        linear=encoder.attention == "pooled",
    )


def _convnext(encoder, size):
    return dict(
        dims=encoder.widths,
        depths=encoder.depths,
        ls_init_value=encoder.layer_scale,
        norm_eps=encoder.epsilon,
    )


def _side(size):
    """(h, w) -> a number where they are equal."""
    return size[0] if size[0] == size[1] else tuple(size)


def _vit_architectures(prefix, sizes, **others):
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


def _swin_architecture(width, last, heads, window, side):
    return dict(
        embed_dim=width,
        depths=(2, 2, last, 2),
        num_heads=tuple(heads * 2**stage for stage in range(4)),
        window_size=window,
        img_size=side,
    )


def _pvt_v2_architecture(depths, widths=(64, 128, 320, 512), ratios=(8, 8, 4, 4), linear=False):
    return dict(depths=depths, embed_dims=widths, mlp_ratios=ratios, linear=linear)


def _convnext_architecture(width, last):
    return dict(dims=tuple(width * 2**stage for stage in range(4)), depths=(3, 3, last, 3))


_MEAN = dict(global_pool="avg")
_VIT_USUAL = dict(img_size=224, mlp_ratio=4.0)
VIT = Family(
    name="ViT",
    format="timm_vit",
    arguments=_vit,
    width=lambda encoder: encoder.width,
    usual=dict(_VIT_USUAL, pos_embed="learn", init_values=None, global_pool="token", fc_norm=None),
    architectures=_vit_architectures(
        "vit",
        [(size, 16) for size in ("base", "tiny", "small", "large")]
        + [("base", 8), ("small", 8), ("large", 14), ("huge", 14)],
    ),
    # Without the cls token; the norm follows the mean, or with fc_norm=False goes before it.
    poolings={None: {}, "cls": {}, "pool_norm": _MEAN, "pool": dict(_MEAN, fc_norm=False)},
)
BEIT = VIT._replace(
    name="BEiT",
    format="timm_beit",
    arguments=_beit,
    usual=dict(
        _VIT_USUAL,
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
    format="timm_swin",
    arguments=_swin,
    width=lambda encoder: encoder.width * 8,
    usual=dict(mlp_ratio=4.0, global_pool="avg"),
    architectures={
        "swin_tiny_patch4_window7_224": _swin_architecture(96, 6, 3, 7, 224),
        "swin_small_patch4_window7_224": _swin_architecture(96, 18, 3, 7, 224),
        "swin_base_patch4_window7_224": _swin_architecture(128, 18, 4, 7, 224),
        "swin_large_patch4_window7_224": _swin_architecture(192, 18, 6, 7, 224),
        "swin_base_patch4_window12_384": _swin_architecture(128, 18, 4, 12, 384),
        "swin_large_patch4_window12_384": _swin_architecture(192, 18, 6, 12, 384),
    },
    poolings={None: {}, "pool": {}, "norm_pool": {}},
    last="head.fc",
)
PVT_V2 = Family(
    name="PVT v2",
    format="timm_pvt_v2",
    arguments=_pvt_v2,
    width=lambda encoder: encoder.widths[-1],
    usual=dict(num_heads=(1, 2, 5, 8), global_pool="avg"),
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
    sized=False,
)
_NORM_FIRST = dict(head_norm_first=True)
CONVNEXT = Family(
    name="ConvNeXt",
    format="timm_convnext",
    arguments=_convnext,
    width=lambda encoder: encoder.widths[-1],
    usual=dict(ls_init_value=1e-6, norm_eps=1e-6, head_norm_first=False, global_pool="avg"),
    architectures={
        "convnext_tiny": _convnext_architecture(96, 9),
        "convnext_small": _convnext_architecture(96, 27),
        "convnext_base": _convnext_architecture(128, 27),
        "convnext_large": _convnext_architecture(192, 27),
        "convnext_xlarge": _convnext_architecture(256, 27),
    },
    # As timm has it the norm follows the mean; the norm of our backbone is one of every cell. That of
    # "norm_pool" has no place: its name would be of a norm after the mean.
    poolings={None: _NORM_FIRST, "pool_norm": {}, "pool": _NORM_FIRST},
    first="stem.0",
    last="head.fc",
    sized=False,
)
FAMILIES = {ViT: VIT, Swin: SWIN, PVTv2: PVT_V2, ConvNeXt: CONVNEXT}


def settings(config):
    """What a timm folder's config.json tells that the arrays do not, as `inward.from_torch` takes it.

    Returns:
      Any of {"backbone": {"heads"}, "image_size", "pooling", "classes"}; of an architecture that is not in
      these tables, what its own arguments say.
    """
    name = config.get("architecture", "").split(".")[0]
    family = next((x for x in (*FAMILIES.values(), BEIT) if name in x.architectures), None)
    usual = {**family.usual, **family.architectures[name]} if family else {}
    arguments = {**usual, **(config.get("model_args") or {})}
    told, heads = {"classes": config.get("label_names")}, arguments.get("num_heads")
    if heads:
        told["backbone"] = {"heads": heads if isinstance(heads, int) else tuple(heads)}
    own_norm = arguments.get("fc_norm", arguments.get("use_fc_norm"))
    if arguments.get("global_pool") == "avg" and own_norm is False:
        told["pooling"] = "pool"
    size = (config.get("pretrained_cfg") or config).get("input_size")
    return told | ({"image_size": tuple(size[1:])} if size else {})


def format_of(encoder):
    """The key of `names.FORMATS` that goes with `describe`.

    Raises:
      UserError: timm has no such model.
    """
    return _family(encoder).format


def _family(encoder):
    if type(encoder) is ViT and encoder.relative_positions != "none":
        return BEIT
    if type(encoder) not in FAMILIES:
        raise UserError(
            f"timm has no {type(encoder).__name__}, only {', '.join(x.name for x in FAMILIES.values())}: "
            "type --to=official"
        )
    return FAMILIES[type(encoder)]


def describe(encoder, image_size, channels=3, pooling=None, classes=0, mean=None, std=None, crop_pct=0.875):
    """timm's JSON config of a model as our backbone is, for `build` or a folder's config.json.

    Args:
      encoder: the backbone, a Flax module.
      image_size: (height, width) in pixels.
      pooling: of `models.heads.POOLINGS`; None for a bare backbone, or with classes the backbone's own.
      classes: 0 for no head.
      mean, std: of pixels in [0, 1], one number per channel; None for ImageNet's.
      crop_pct: side of the crop that is judged, of the short side of the image before.

    Raises:
      UserError: timm has no such model.
    """
    family = _family(encoder)
    pooling = pooling or (encoder.pooling if classes else None)
    if pooling not in family.poolings:
        known = [name for name in family.poolings if name]
        raise UserError(
            f"timm's {family.name} does not pool as '{pooling}' does, only as {', '.join(known)}: type "
            f"--to=official, or fine-tune with --config.model.pooling={known[0]}"
        )
    usual = dict(family.usual, in_chans=3)
    pooled = {"global_pool": usual["global_pool"], **family.poolings[pooling]}
    wanted = {**family.arguments(encoder, image_size), **pooled, "in_chans": channels}
    architecture, differing = _nearest(wanted, usual, family.architectures)
    size = [channels, *image_size]
    defaults = channel_statistics(channels)
    description = {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": family.width(encoder),
        "global_pool": wanted["global_pool"],
        "model_args": differing,
        "pretrained_cfg": {
            "input_size": size,
            "fixed_input_size": family.sized,
            "interpolation": "bicubic",
            "crop_pct": crop_pct,
            "mean": mean or defaults[0],
            "std": std or defaults[1],
            "num_classes": classes,
            "first_conv": family.first,
            "classifier": family.last,
        },
    }
    return json.loads(json.dumps(description))  # as it is read back: lists for tuples


def _nearest(wanted, usual, architectures):
    """-> (the name of the model with the fewest arguments to change, those arguments)."""
    differing = {
        name: {key: x for key, x in wanted.items() if x != {**usual, **own}[key]}
        for name, own in architectures.items()
    }
    return min(differing.items(), key=lambda item: len(item[1]))
